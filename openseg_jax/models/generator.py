"""The proposal generator: an image and class names in, masks and class embeddings out.

Backbone, deformable pixel decoder, text interaction, masked-attention decoder. Without the text
interaction it is Mask2Former.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import traverse_util

from openseg_jax.errors import UserError, check_shape, unknown_name
from openseg_jax.models.mask_decoder import MaskDecoder, MaskDecoderConfig
from openseg_jax.models.pixel_decoder import PixelDecoder, PixelDecoderConfig
from openseg_jax.models.resnet import ResNet, ResNetConfig
from openseg_jax.models.swin import Swin, SwinConfig
from openseg_jax.models.text_interaction import InteractionConfig, TextInteraction
from openseg_jax.types import Array, Bool, Float, Key, Params

STRIDE = 32
# kind: (configuration, module)
BACKBONES: dict[str, tuple[Any, Any]] = {
    "resnet": (ResNetConfig, ResNet),
    "swin": (SwinConfig, Swin),
}


@dataclasses.dataclass(frozen=True)
class GeneratorConfig:
    """Sizes of the generator; the defaults are the published ones (MAFT, ViT-B).

    Attributes:
        backbone: of one of the kinds in `BACKBONES`.
        pixel_decoder, decoder: of the same width.
        interaction: None for a Mask2Former, which knows no texts.
        mean, std: of pixels in [0, 255], RGB.
    """

    backbone: Any = dataclasses.field(default_factory=ResNetConfig)
    pixel_decoder: PixelDecoderConfig = dataclasses.field(default_factory=PixelDecoderConfig)
    interaction: InteractionConfig | None = dataclasses.field(default_factory=InteractionConfig)
    decoder: MaskDecoderConfig = dataclasses.field(default_factory=MaskDecoderConfig)
    mean: tuple[float, ...] = (123.675, 116.28, 103.53)
    std: tuple[float, ...] = (58.395, 57.12, 57.375)

    @property
    def kind(self) -> str:
        """The key of `BACKBONES` that the backbone's configuration belongs to."""
        return next(k for k, (config, _) in BACKBONES.items() if type(self.backbone) is config)

    def to_dict(self) -> dict[str, Any]:
        """Returns a dict for JSON."""
        return {**dataclasses.asdict(self), "backbone_kind": self.kind}

    @classmethod
    def from_dict(cls, about: dict[str, Any]) -> GeneratorConfig:
        """Reads what `to_dict` wrote; unknown kinds and settings raise UserError."""
        about = dict(about)
        kind = about.pop("backbone_kind", "resnet")
        if kind not in BACKBONES:
            unknown_name(kind, BACKBONES, "generator backbone")
        parts = {
            "backbone": BACKBONES[kind][0],
            "pixel_decoder": PixelDecoderConfig,
            "interaction": InteractionConfig,
            "decoder": MaskDecoderConfig,
        }
        try:
            values = {
                key: parts[key](**_tuples(value)) if key in parts and value is not None else value
                for key, value in about.items()
            }
            return cls(**_tuples(values))
        except TypeError as error:
            raise UserError(
                f"generator: expected the settings of a GeneratorConfig, got one that it lacks "
                f"({error}); convert the weights again with this version"
            ) from error


def _tuples(values: dict[str, Any]) -> dict[str, Any]:
    return {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}


_TINY = GeneratorConfig(
    backbone=ResNetConfig((1, 1, 1, 2), (16, 24, 32, 40), stem_width=8, dilations=(1, 2)),
    pixel_decoder=PixelDecoderConfig(32, 32, layers=1, heads=4, points=2, ffn=48, groups=8),
    interaction=InteractionConfig(text_dim=32, inner=64, heads=4),
    decoder=MaskDecoderConfig(32, 32, 12, 3, 4, 48, class_dim=32, class_hidden=40),
)

VARIANTS: dict[str, GeneratorConfig] = {
    # The published generators, for the text rows of ViT-B and ViT-L.
    "r101": GeneratorConfig(),
    "r101-l": GeneratorConfig(
        interaction=InteractionConfig(text_dim=768), decoder=MaskDecoderConfig(class_dim=768)
    ),
    "tiny": _TINY,
}


def generator_variant(name: str, text_dim: int | None = None) -> GeneratorConfig:
    """Looks a configuration up by name.

    Args:
        name: a key of `VARIANTS`.
        text_dim: E of the text rows, where it is not the variant's own.

    Raises:
        UserError: for an unknown name, with the closest one.
    """
    if name not in VARIANTS:
        unknown_name(name, VARIANTS, "generator")
    config = VARIANTS[name]
    if text_dim is None or config.interaction is None:
        return config
    return dataclasses.replace(
        config,
        interaction=dataclasses.replace(config.interaction, text_dim=text_dim),
        decoder=dataclasses.replace(config.decoder, class_dim=text_dim),
    )


class Generator(nn.Module):
    """Proposes masks.

    `Generator(config).apply({"params": params}, image, text)` in inference; in training add
    `train=True, rngs={"dropout": key}`. Dropout is 0.1 in the pixel decoder and the interaction.

    Attributes:
        config: sizes.
        dtype: of the computation; parameters and normalisations are float32.
    """

    config: GeneratorConfig
    dtype: jnp.dtype = jnp.float32

    def setup(self) -> None:
        c = self.config
        self.backbone = BACKBONES[c.kind][1](c.backbone, self.dtype)
        self.pixel_decoder = PixelDecoder(c.pixel_decoder, self.dtype)
        if c.interaction is not None:
            self.interaction = TextInteraction(c.interaction, c.decoder.width, self.dtype)
        self.decoder = MaskDecoder(c.decoder, self.dtype)

    def __call__(
        self,
        image: Float[Array, "B H W 3"],
        text: Float[Array, "G E"] | Float[Array, "B G E"] | None = None,
        *,
        text_valid: Bool[Array, "..."] | None = None,
        valid: Bool[Array, "B H W"] | None = None,
        train: bool = False,
    ) -> dict[str, list[Array]]:
        """Runs the generator.

        Args:
            image: RGB in [0, 255], bytes or floats, of any size.
            text: unit rows, one a class and the non-object row last; for all images or for each.
            text_valid: Bool of the shape of `text` without E; False rows are padding.
            valid: pixels that exist; the others become the mean colour, as padding does.
            train: whether to drop out; needs the rng "dropout".

        Returns:
            "masks": logits, a list of Float32[B M h w], and "class_embed", a list of
            Float[B M E]; one item for the queries and one for each decoder layer, the last is
            the result. h and w are a quarter of H and W rounded up to multiples of 32: padding
            is at the bottom and right. Class logits are 100·cos(class_embed, text).

        Raises:
            UserError: for an image of another shape, or texts missing or not of width E.
        """
        c = self.config
        check_shape(image, "B H W 3", "image", fix="give a batch of RGB images, channels last")
        if c.interaction is not None:
            got = "none" if text is None else f"width {text.shape[-1]}"
            if text is None or text.shape[-1] != c.interaction.text_dim:
                raise UserError(
                    f"text: expected rows of width {c.interaction.text_dim}, got {got}; give the "
                    "text features of the CLIP that the generator was trained with"
                )
        x = normalise(image, c.mean, c.std)
        if valid is not None:
            x = jnp.where(valid[..., None], x, 0)
        bottom, right = -x.shape[1] % STRIDE, -x.shape[2] % STRIDE
        x = jnp.pad(x, ((0, 0), (0, bottom), (0, right), (0, 0)))
        features, maps = self.pixel_decoder(self.backbone(x), train=train)
        if c.interaction is not None:
            looked = self.interaction([*maps, features], text, text_valid, train=train)
            maps, features = tuple(looked[:-1]), looked[-1]
        return self.decoder(maps, features)


def normalise(
    image: Array, mean: tuple[float, ...], std: tuple[float, ...]
) -> Float[Array, "B H W 3"]:
    """Turns RGB in [0, 255] into (x − mean)/std."""
    return (image.astype(jnp.float32) - jnp.asarray(mean)) / jnp.asarray(std)


@functools.lru_cache(maxsize=32)
def generator_spec(config: GeneratorConfig) -> Params:
    """Lists the parameters of a generator with their shapes; nothing is computed."""
    return jax.eval_shape(lambda: _linen_init(config))


def init_generator(config: GeneratorConfig, key: Key) -> Params:
    """Draws the parameters of a generator by the published rules.

    Linear maps are Xavier-uniform, the backbone's convolutions He (for their outputs), the others
    LeCun, both uniform too; embeddings are normal. The rest starts from constants, which the
    modules know. All numbers come from one draw: compiling one for each of the parameters takes
    half a minute on a CPU.
    """
    spec: dict[str, Any] = traverse_util.flatten_dict(generator_spec(config), sep="/")
    drawn = [name for name in sorted(spec) if _limit(name, spec[name].shape)]

    def constants() -> dict[str, Array]:
        flat = traverse_util.flatten_dict(_linen_init(config), sep="/")
        return {name: leaf for name, leaf in flat.items() if name not in drawn}

    @jax.jit
    def draw(key: Key) -> dict[str, Array]:
        sizes = [math.prod(spec[name].shape) for name in drawn]
        flat = jax.random.uniform(key, (sum(sizes),), minval=-1.0)
        out, start = constants(), 0
        for name, size in zip(drawn, sizes, strict=True):
            leaf = flat[start : start + size].reshape(spec[name].shape)
            limit = _limit(name, leaf.shape)
            # Stretched to a unit normal where there is no limit.
            normal = jax.scipy.special.ndtri(jnp.clip((leaf + 1) / 2, 1e-6, 1 - 1e-6))
            out[name] = normal if limit == math.inf else leaf * limit
            start += size
        return out

    return traverse_util.unflatten_dict(draw(key), sep="/")


def _linen_init(config: GeneratorConfig) -> Params:
    image, width = jnp.zeros((1, STRIDE, STRIDE, 3)), config.interaction
    text = None if width is None else jnp.zeros((1, width.text_dim))
    return Generator(config).init(jax.random.key(0), image, text)["params"]


def _limit(name: str, shape: tuple[int, ...]) -> float:
    """Returns how far from 0 a parameter is drawn; 0 for constants, infinity for normal draws."""
    *_, layer, leaf = name.split("/")
    if leaf.endswith("_embed") or leaf == "query_feat":
        return math.inf
    # Sampling starts on a ring with equal weights, see models.pixel_decoder.
    if leaf != "kernel" or layer in ("sampling_offsets", "attention_weights"):
        return 0.0
    if len(shape) == 2:
        return math.sqrt(6 / sum(shape))
    field = shape[0] * shape[1]
    he = name.startswith("backbone/")
    return math.sqrt(6 / (field * shape[3])) if he else math.sqrt(3 / (field * shape[2]))
