"""What big_vision calls our parameters, now and in older files.

| tower | names |
|---|---|
| image | `img/embedding`, `img/pos_embedding`, `img/Transformer/encoderblock…`; SigLIP pools by
  `img/MAPHead_0`, LiT by `img/cls`; `img/head` may follow |
| text, a transformer | `txt/Embed_0`, `txt/pos_embedding`, `txt/Encoder_0/encoderblock…`,
  `txt/head` |
| text, a BERT (LiT) | `txt/BertEncoder_0/{embedder,layer_norm,encoder_block}/…`, `txt/head` |
| image, NaFlex | the same, but `img/embedding/kernel` [P·P·3 D] and `img/pos_embedding` [R R D] |
| both | `t`, the logarithm of the logit scale, and with a sigmoid loss `b` |

Blocks are apart (`encoderblock_3`) or scanned (`encoderblock` with a leading depth axis).
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from openseg_jax.models.variants import CLIPConfig, TextConfig, VisionConfig
from openseg_jax.weights.npz import MadeArray
from openseg_jax.weights.tree import Leaf

BERT = "txt/BertEncoder_0"
BERT_LAYERS = f"{BERT}/encoder_block/layer_sequence"
_NORM, _LINEAR = ("scale", "bias"), ("kernel", "bias")
# Flax numbered the parts of a block through before linen, and each kind apart since.
_BEFORE_LINEN = {
    "MultiHeadDotProductAttention_1": "MultiHeadDotProductAttention_0",
    "LayerNorm_2": "LayerNorm_1",
    "MlpBlock_3": "MlpBlock_0",
}
_POSITIONS = "img/pos_embedding"
_INLINED = ("probe", "MlpBlock_0", "MultiHeadDotProductAttention_0", "LayerNorm_0")


def _pair(target: str, source: str, names: tuple[str, str]) -> list[Leaf]:
    return [Leaf(f"{target}/{name}", f"{source}/{name}") for name in names]


def _attention(target: str, source: str, width: int, heads: int) -> list[Leaf]:
    d = width // heads
    rows = []
    for name in ("query", "key", "value"):
        rows.append(
            Leaf(f"{target}/{name}/kernel", f"{source}/{name}/kernel", shape=(width, heads, d))
        )
        rows.append(Leaf(f"{target}/{name}/bias", f"{source}/{name}/bias", shape=(heads, d)))
    rows.append(Leaf(f"{target}/out/kernel", f"{source}/out/kernel", shape=(heads, d, width)))
    return [*rows, Leaf(f"{target}/out/bias", f"{source}/out/bias")]


def _mlp(target: str, source: str) -> list[Leaf]:
    return [
        *_pair(f"{target}/c_fc", f"{source}/Dense_0", _LINEAR),
        *_pair(f"{target}/c_proj", f"{source}/Dense_1", _LINEAR),
    ]


def _blocks(target: str, source: str, tower: VisionConfig | TextConfig, scan: bool) -> list[Leaf]:
    block = f"{source}/encoderblock" + ("" if scan else "_{i}")
    attention = f"{block}/MultiHeadDotProductAttention_0"
    return [
        *_pair(f"{target}/ln_1", f"{block}/LayerNorm_0", _NORM),
        *_attention(f"{target}/attn", attention, tower.width, tower.heads),
        *_pair(f"{target}/ln_2", f"{block}/LayerNorm_1", _NORM),
        *_mlp(f"{target}/mlp", f"{block}/MlpBlock_0"),
    ]


def _image(v: VisionConfig, scan: bool, positions: int) -> list[Leaf]:
    rows = [
        *_pair("visual/conv1", "img/embedding", _LINEAR),
        Leaf("visual/positional_embedding", _POSITIONS, shape=(1, positions, v.width)),
        *_blocks("visual/blocks", "img/Transformer", v, scan),
        *_pair("visual/ln_post", "img/Transformer/encoder_norm", _NORM),
    ]
    if v.pool == "map":
        head = "img/MAPHead_0"
        attention = f"{head}/MultiHeadDotProductAttention_0"
        rows += [
            Leaf("visual/map_head/probe", f"{head}/probe", shape=(1, 1, v.width)),
            *_attention("visual/map_head/attn", attention, v.width, v.heads),
            *_pair("visual/map_head/ln", f"{head}/LayerNorm_0", _NORM),
            *_mlp("visual/map_head/mlp", f"{head}/MlpBlock_0"),
        ]
    else:
        rows.append(Leaf("visual/class_embedding", "img/cls", shape=(1, 1, v.width)))
    return rows + (_pair("visual/proj", "img/head", _LINEAR) if v.proj else [])


def _bert() -> list[Leaf]:
    block = f"{BERT_LAYERS}/layers_{{i}}"
    attention, mlp = f"{block}/attention_block", f"{block}/mlp_block"
    rows = []
    for name in ("query", "key", "value"):
        rows += _pair(f"text/blocks/attn/{name}", f"{attention}/attention_layer/{name}", _LINEAR)
    return [
        *rows,
        *_pair("text/blocks/attn/out", f"{attention}/dense_layer", _LINEAR),
        *_pair("text/blocks/ln_1", f"{attention}/layer_norm", _NORM),
        *_pair("text/blocks/mlp/c_fc", f"{mlp}/mlp/dense_layer", _LINEAR),
        *_pair("text/blocks/mlp/c_proj", f"{mlp}/dense_layer", _LINEAR),
        *_pair("text/blocks/ln_2", f"{mlp}/layer_norm", _NORM),
        *_pair("text/ln_pre", f"{BERT}/layer_norm", _NORM),
        Leaf("text/token_embedding", f"{BERT}/embedder/embedders_token_ids/embedding"),
        Leaf("text/positional_embedding", f"{BERT}/embedder/embedders_position_ids/embedding"),
    ]


def _text(t: TextConfig, scan: bool) -> list[Leaf]:
    return [
        Leaf("text/token_embedding", "txt/Embed_0/embedding"),
        Leaf("text/positional_embedding", "txt/pos_embedding", shape=(1, t.context, t.width)),
        *_blocks("text/blocks", "txt/Encoder_0", t, scan),
        *_pair("text/ln_final", "txt/Encoder_0/encoder_norm", _NORM),
    ]


def leaves(
    config: CLIPConfig,
    *,
    scan_image: bool = False,
    scan_text: bool = False,
    class_position: bool = True,
) -> list[Leaf]:
    """Names all parameters of a two-tower model as big_vision does.

    Args:
        config: a SigLIP or a LiT.
        scan_image, scan_text: blocks are stacked.
        class_position: the table of positions has a first row for the class token, as ours has
            and as `modern` makes; big_vision's own has none.
    """
    v, t = config.vision, config.text
    positions = v.grid**2 + int(v.pool == "class" and class_position)
    return [
        *_image(v, scan_image, positions),
        *(_bert() if t.post_norm else _text(t, scan_text)),
        *_pair("text/text_projection", "txt/head", _LINEAR),
        Leaf("logit_scale", "t", shape=(1,)),
        *([Leaf("logit_bias", "b", shape=(1,))] if config.logit_bias else []),
    ]


def modern(source: Mapping[str, Any]) -> dict[str, Any]:
    """Renames what older files call otherwise, and folds what we keep in one array.

    Follows big_vision's `vit.fix_old_checkpoints` and `text_transformer.load`. Nothing is read:
    arrays that are put together are `MadeArray`s.

    Args:
        source: arrays by name, without the checkpoint's root.
    """
    out = {_rename(name, source): array for name, array in source.items()}
    extra = out.pop("txt/Encoder_0/pos_embedding", None)
    if extra is not None and "txt/pos_embedding" in out:
        # Some models were trained with two tables of positions by mistake.
        out["txt/pos_embedding"] = _sum(out["txt/pos_embedding"], extra)
    segments = out.pop(f"{BERT}/embedder/embedders_segment_ids/embedding", None)
    positions = f"{BERT}/embedder/embedders_position_ids/embedding"
    if segments is not None and positions in out:
        # All of a sentence is segment 0.
        out[positions] = _sum(out[positions], segments, rows=1)
    if len(getattr(out.get("img/embedding/kernel"), "shape", ())) == 2:
        _unroll_naflex(out)
    if "img/cls" in out and len(getattr(out.get(_POSITIONS), "shape", ())) == 3:
        out[_POSITIONS] = _with_class_row(out[_POSITIONS])
    return out


def _rename(name: str, source: Mapping[str, Any]) -> str:
    parts = name.split("/")
    if any(re.fullmatch(r"encoderblock(_\d+)?", part) for part in parts):
        parts = [_BEFORE_LINEN.get(part, part) for part in parts]
    if parts[:2] == ["img", "Transformer"] and parts[-1] == "pos_embedding":
        return _POSITIONS
    if "img/probe" in source and parts[0] == "img" and parts[1] in _INLINED:
        return "/".join(["img", "MAPHead_0", *parts[1:]])
    return "/".join(parts)


def _sum(a: Any, b: Any, rows: int | None = None) -> MadeArray:
    def make() -> np.ndarray:
        return np.asarray(a, np.float32) + np.asarray(b, np.float32)[:rows]

    return MadeArray(tuple(a.shape), np.float32, make)


def _unroll_naflex(out: dict[str, Any]) -> None:
    """Turns NaFlex's map of flat patches and its square of positions into a ViT's, in place."""
    kernel, table = out["img/embedding/kernel"], out.get(_POSITIONS)
    square = tuple(getattr(table, "shape", ()))
    patch = math.isqrt(kernel.shape[0] // 3)
    shape = (patch, patch, 3, kernel.shape[1])
    if patch * patch * 3 == kernel.shape[0]:
        out["img/embedding/kernel"] = _reshaped(kernel, shape)
    if len(square) == 3 and square[0] == square[1]:
        out[_POSITIONS] = _reshaped(table, (1, square[0] ** 2, square[2]))


def _reshaped(array: Any, shape: tuple[int, ...]) -> MadeArray:
    return MadeArray(shape, array.dtype, lambda: np.asarray(array).reshape(shape))


def _with_class_row(table: Any) -> Any:
    """Gives the class token a position: its own in old files, which is square and one, else 0."""
    _, rows, width = table.shape
    if math.isqrt(rows) ** 2 + 1 == rows:
        return table

    def make() -> np.ndarray:
        array = np.asarray(table)
        return np.concatenate([np.zeros((1, 1, width), array.dtype), array], axis=1)

    return MadeArray((1, rows + 1, width), table.dtype, make)
