"""ResNets with bottlenecks and frozen batch normalisation, as detection backbones use them."""

from __future__ import annotations

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp

from openseg_jax.types import Array, Float


@dataclasses.dataclass(frozen=True)
class ResNetConfig:
    """Sizes and conventions; the defaults are MAFT's R-101.

    Attributes:
        depths: blocks of res2 to res5.
        widths: channels that they put out.
        stem: "deeplab" for three 3×3 convolutions, "basic" for one of 7×7.
        stem_width: channels of the stem; DeepLab's starts with half of them.
        dilations: of the 3×3 convolutions in res5, one a block (multi-grid).
        stride_in_3x3: where a block halves the map: in its 3×3 convolution, or in the first 1×1.
        eps: of the batch normalisation.
    """

    depths: tuple[int, ...] = (3, 4, 23, 3)
    widths: tuple[int, ...] = (256, 512, 1024, 2048)
    stem: str = "deeplab"
    stem_width: int = 128
    dilations: tuple[int, ...] = (1, 2, 4)
    stride_in_3x3: bool = True
    eps: float = 1e-5


class FrozenNorm(nn.Module):
    """Normalises by stored statistics: x·scale/√(var + ε) + bias − mean·scale/√(var + ε).

    All four are parameters, so that they travel with the weights, and none has a gradient. An
    optimiser with weight decay must leave them out.
    """

    eps: float

    @nn.compact
    def __call__(self, x: Float[Array, "B h w D"]) -> Float[Array, "B h w D"]:
        ones, zeros = nn.initializers.ones, nn.initializers.zeros
        draws = {"scale": ones, "bias": zeros, "mean": zeros, "var": ones}
        p = {k: self.param(k, init, x.shape[-1:], jnp.float32) for k, init in draws.items()}
        p = jax.lax.stop_gradient(p)
        scale = p["scale"] * jax.lax.rsqrt(p["var"] + self.eps)
        shift = p["bias"] - p["mean"] * scale
        return x * scale.astype(x.dtype) + shift.astype(x.dtype)


class FrozenConv(nn.Module):
    """A convolution without bias, padded to keep its size, then a frozen normalisation."""

    width: int
    kernel: int
    stride: int = 1
    dilation: int = 1
    eps: float = 1e-5
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "B h w _"]) -> Float[Array, "B h w D"]:
        # Padding is spelt out: XLA's SAME puts less of it at the top left of a strided map.
        pad = self.dilation * (self.kernel // 2)
        x = nn.Conv(
            self.width, (self.kernel, self.kernel), self.stride, padding=pad,
            kernel_dilation=self.dilation, use_bias=False, dtype=self.dtype, name="conv",
        )(x)  # fmt: skip
        return FrozenNorm(self.eps, name="norm")(x)


class Bottleneck(nn.Module):
    """x = relu(shortcut(x) + 1×1 ∘ 3×3 ∘ 1×1 (x)); the shortcut is a 1×1 map where sizes change."""

    width: int
    stride: int
    dilation: int
    config: ResNetConfig
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "B h w _"]) -> Float[Array, "B h w D"]:
        c, inner = self.config, self.width // 4
        first, second = (1, self.stride) if c.stride_in_3x3 else (self.stride, 1)
        rest = {"eps": c.eps, "dtype": self.dtype}
        y = nn.relu(FrozenConv(inner, 1, first, name="conv1", **rest)(x))
        y = nn.relu(FrozenConv(inner, 3, second, self.dilation, name="conv2", **rest)(y))
        y = FrozenConv(self.width, 1, name="conv3", **rest)(y)
        if x.shape[-1] != self.width or self.stride != 1:
            x = FrozenConv(self.width, 1, self.stride, name="shortcut", **rest)(x)
        return nn.relu(x + y)


class ResNet(nn.Module):
    """Computes maps at strides 4, 8, 16 and 32."""

    config: ResNetConfig
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "B H W 3"]) -> list[Float[Array, "B h w _"]]:
        c = self.config
        x = x.astype(self.dtype)
        stem = [(c.stem_width, 7, 2)]
        if c.stem == "deeplab":
            stem = [(c.stem_width // 2, 3, 2), (c.stem_width // 2, 3, 1), (c.stem_width, 3, 1)]
        for i, (width, kernel, stride) in enumerate(stem):
            conv = FrozenConv(
                width, kernel, stride, eps=c.eps, dtype=self.dtype, name=f"stem_conv{i + 1}"
            )
            x = nn.relu(conv(x))
        x = nn.max_pool(x, (3, 3), (2, 2), padding=[(1, 1), (1, 1)])  # pyright: ignore[reportArgumentType]
        maps = []
        for stage, (depth, width) in enumerate(zip(c.depths, c.widths, strict=True)):
            for i in range(depth):
                last = stage == len(c.depths) - 1
                block = Bottleneck(
                    width, 2 if stage and not i else 1, c.dilations[i] if last else 1, c,
                    self.dtype, name=f"res{stage + 2}_{i}",
                )  # fmt: skip
                x = block(x)
            maps.append(x)
        return maps
