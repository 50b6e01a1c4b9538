"""What a CLIP is made of, as data: sizes, activation, eps, pooling, image range, resize rule.

Nothing here is ever guessed from weights: a converter writes it once, our folders carry it, and
every module reads it from there. The tables list the published architectures by name.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from openseg_jax.errors import UserError, unknown_name

ACTIVATIONS = ("quick_gelu", "gelu", "gelu_tanh")
VISION_POOLS = ("class", "map", "mean")
TEXT_POOLS = ("argmax", "last", "first")


@dataclasses.dataclass(frozen=True)
class VisionConfig:
    """The image tower.

    Attributes:
        image_size: pixels a side that the position table was trained for.
        patch_size: pixels a side of one patch.
        width: D. depth: number of blocks. heads: A. mlp_width: F.
        act: one of `ACTIVATIONS`. eps: of every LayerNorm.
        pool: "class" (first token), "map" (SigLIP's attention head) or "mean" (of the patches).
        pre_norm: LayerNorm before the first block (`ln_pre`), as in OpenAI's CLIP.
        conv_bias: the patch convolution has a bias.
        proj: a linear map from D to the joint width E follows the pooling; proj_bias: it has a
            bias (some LiT).
        pos_resample: convention for other grids, one of `ops.posembed.CONVENTIONS`.
    """

    image_size: int
    patch_size: int
    width: int
    depth: int
    heads: int
    mlp_width: int
    act: str
    eps: float = 1e-5
    pool: str = "class"
    pre_norm: bool = True
    conv_bias: bool = False
    proj: bool = True
    pos_resample: str = "bicubic_antialias"
    proj_bias: bool = False

    @property
    def grid(self) -> int:
        """Patches a side of the position table."""
        return self.image_size // self.patch_size


@dataclasses.dataclass(frozen=True)
class TextConfig:
    """The text tower.

    Attributes:
        context: tokens of a sentence. vocab_size: rows of the token table.
        width, depth, heads, mlp_width, act, eps: as in `VisionConfig`.
        pool: "argmax" (the first position of the largest id, OpenAI's end of text), "last" or
            "first" (BERT's [CLS]).
        causal: a token sees only those before it.
        proj_bias: the projection to the joint width has a bias (SigLIP).
        post_norm: a BERT (LiT): LayerNorm on the embeddings and after each sum instead of before
            each part, none at the end, and nobody attends to padding, which is id 0.
    """

    context: int
    vocab_size: int
    width: int
    depth: int
    heads: int
    mlp_width: int
    act: str
    eps: float = 1e-5
    pool: str = "argmax"
    causal: bool = True
    proj_bias: bool = False
    post_norm: bool = False


@dataclasses.dataclass(frozen=True)
class CLIPConfig:
    """Both towers and what joins them.

    Attributes:
        name: for people; never looked up to decide anything.
        embed_dim: E, the joint width.
        vision, text: the towers.
        logit_bias: logits get a learnt bias (sigmoid loss, SigLIP).
    """

    name: str
    embed_dim: int
    vision: VisionConfig
    text: TextConfig
    logit_bias: bool = False

    def __post_init__(self) -> None:
        for tower, pools in ((self.vision, VISION_POOLS), (self.text, TEXT_POOLS)):
            if tower.act not in ACTIVATIONS:
                unknown_name(tower.act, ACTIVATIONS, "activation")
            if tower.pool not in pools:
                unknown_name(tower.pool, pools, "pooling")
            if tower.width % tower.heads:
                raise UserError(
                    f"heads: expected a divisor of width {tower.width}, got {tower.heads}; "
                    "correct the model's configuration"
                )

    def to_dict(self) -> dict[str, Any]:
        """Returns plain nested dicts, ready for JSON."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> CLIPConfig:
        """Builds a config from `to_dict`'s output; unknown or missing keys raise UserError."""
        data = dict(data)
        vision = _build(VisionConfig, data.pop("vision", {}), "model.vision")
        text = _build(TextConfig, data.pop("text", {}), "model.text")
        return _build(cls, {**data, "vision": vision, "text": text}, "model")


@dataclasses.dataclass(frozen=True)
class Preprocess:
    """How the weights expect their images.

    Attributes:
        size: pixels a side.
        mean, std: per channel, for values in [0, 1].
        resize: "short_side_crop" (short side to `size`, centre crop; CLIP) or "squash" (both
            sides to `size`, aspect ratio not kept; SigLIP).
        interpolation: "bicubic" or "bilinear".
        antialias: widen the kernel when shrinking (PIL does, TensorFlow's default does not).
        round_uint8: the resized image is cut back to whole grey levels before scaling.
    """

    size: int
    mean: tuple[float, float, float] = (0.48145466, 0.4578275, 0.40821073)
    std: tuple[float, float, float] = (0.26862954, 0.26130258, 0.27577711)
    resize: str = "short_side_crop"
    interpolation: str = "bicubic"
    antialias: bool = True
    round_uint8: bool = True

    def to_dict(self) -> dict[str, Any]:
        """Returns a plain dict, ready for JSON."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Preprocess:
        """Builds it from `to_dict`'s output; unknown or missing keys raise UserError."""
        data = dict(data)
        for key in ("mean", "std"):
            if key in data:
                data[key] = tuple(data[key])
        return _build(cls, data, "preprocess")


def _build(cls: Any, data: Mapping[str, Any], where: str) -> Any:
    fields = {f.name: f for f in dataclasses.fields(cls)}
    for key in data:
        if key not in fields:
            unknown_name(key, fields, f"{where} key")
    missing = [
        name for name, f in fields.items() if f.default is dataclasses.MISSING and name not in data
    ]
    if missing:
        raise UserError(f"{where}: missing {', '.join(missing)}; the configuration is incomplete")
    return cls(**data)


def _openai(name: str, size: int, patch: int, width: int, depth: int, embed: int, text: int):
    return CLIPConfig(
        name=name,
        embed_dim=embed,
        vision=VisionConfig(size, patch, width, depth, width // 64, 4 * width, "quick_gelu"),
        text=TextConfig(77, 49408, text, 12, text // 64, 4 * text, "quick_gelu"),
    )


def _with_gelu(config: CLIPConfig, name: str) -> CLIPConfig:
    return dataclasses.replace(
        config,
        name=name,
        vision=dataclasses.replace(config.vision, act="gelu"),
        text=dataclasses.replace(config.text, act="gelu"),
    )


def _siglip(
    name: str,
    size: int,
    patch: int,
    sizes: tuple[int, int, int, int],
    text: tuple[int, int, int, int],
    *,
    vocab: int = 32000,
    context: int = 64,
) -> CLIPConfig:
    width, depth, mlp, heads = sizes
    return CLIPConfig(
        name=name,
        embed_dim=width,
        vision=VisionConfig(
            size, patch, width, depth, heads, mlp, "gelu_tanh", 1e-6,
            pool="map", pre_norm=False, conv_bias=True, proj=False, pos_resample="zoom_linear",
        ),
        text=TextConfig(
            context, vocab, text[0], text[1], text[3], text[2], "gelu_tanh", 1e-6,
            pool="last", causal=False, proj_bias=True,
        ),
        logit_bias=True,
    )  # fmt: skip


# width, depth, MLP width, heads
_B = (768, 12, 3072, 12)
_L = (1024, 24, 4096, 16)
_SO = (1152, 27, 4304, 16)
_G = (1536, 40, 6144, 16)
_GEMMA = 256000

_B16 = _openai("ViT-B-16", 224, 16, 768, 12, 512, 512)
_H14 = CLIPConfig(
    name="ViT-H-14",
    embed_dim=1024,
    vision=VisionConfig(224, 14, 1280, 32, 16, 5120, "gelu"),
    text=TextConfig(77, 49408, 1024, 24, 16, 4096, "gelu"),
)

VARIANTS: dict[str, CLIPConfig] = {
    c.name: c
    for c in (
        _openai("ViT-B-32", 224, 32, 768, 12, 512, 512),
        _B16,
        _openai("ViT-L-14", 224, 14, 1024, 24, 768, 768),
        _openai("ViT-L-14-336", 336, 14, 1024, 24, 768, 768),
        _with_gelu(_B16, "ViT-B-16-laion"),
        _H14,
        _siglip("SigLIP-B-16", 224, 16, _B, _B),
        _siglip("SigLIP-B-16-256", 256, 16, _B, _B),
        _siglip("SigLIP-B-16-384", 384, 16, _B, _B),
        _siglip("SigLIP-B-16-512", 512, 16, _B, _B),
        _siglip("SigLIP-L-16-256", 256, 16, _L, _L),
        _siglip("SigLIP-L-16-384", 384, 16, _L, _L),
        _siglip("SigLIP-So400m-14", 224, 14, _SO, _SO, context=16),
        _siglip("SigLIP-So400m-14-384", 384, 14, _SO, _SO),
        _siglip("SigLIP2-B-16", 224, 16, _B, _B, vocab=_GEMMA),
        _siglip("SigLIP2-B-16-256", 256, 16, _B, _B, vocab=_GEMMA),
        _siglip("SigLIP2-B-16-384", 384, 16, _B, _B, vocab=_GEMMA),
        _siglip("SigLIP2-L-16-256", 256, 16, _L, _L, vocab=_GEMMA),
        _siglip("SigLIP2-So400m-14", 224, 14, _SO, _SO, vocab=_GEMMA),
        _siglip("SigLIP2-So400m-14-384", 384, 14, _SO, _SO, vocab=_GEMMA),
        _siglip("SigLIP2-g-opt-16-256", 256, 16, _G, _SO, vocab=_GEMMA),
    )
}


def variant(name: str) -> CLIPConfig:
    """Looks an architecture up by name; unknown names raise UserError with the closest one."""
    if name not in VARIANTS:
        unknown_name(name, VARIANTS, "CLIP variant")
    return VARIANTS[name]
