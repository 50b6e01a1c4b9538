"""big_vision's npz files: SigLIP, SigLIP 2 and LiT, read and written.

The tree is flax's: parameters bare at the root, or below "params/" (with an optimiser beside
them) or "opt/target/". `weights.big_vision_names` says what is called how. A file does not hold
its tokenizer, which has to lie beside it: sentencepiece models `c4_en` (32,000 pieces, SigLIP),
`mc4` (250,000, SigLIP i18n) and `gemma` (256,000, SigLIP 2), or BERT's vocab.txt (LiT).
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from openseg_jax.errors import UserError, describe, expected
from openseg_jax.models.variants import CLIPConfig, Preprocess, TextConfig, VisionConfig
from openseg_jax.text.tokenizer import Tokenizer
from openseg_jax.types import Params
from openseg_jax.weights.big_vision_names import BERT, BERT_LAYERS, leaves, modern
from openseg_jax.weights.loaded import LoadedClip, unknown_provenance
from openseg_jax.weights.npz import read_npz, write_npz
from openseg_jax.weights.npz_about import check_vocabulary, read_about
from openseg_jax.weights.safetensors import DTYPES, STORAGE, cast
from openseg_jax.weights.tree import convert, export
from openseg_jax.weights.vocabulary import bert_vocabulary, siglip_vocabulary

ROOTS = ("params/", "opt/target/", "")
LAYOUTS = ("per-layer", "scan")
# Squash to a square, TensorFlow's bilinear without antialiasing, whole grey levels, then ±1.
_HALF = (0.5, 0.5, 0.5)
# flaxformer's BERT configurations: heads of 64. Their names and shapes do not say it.
_BERT_HEAD = 64
_BERT_EPS = 1e-12


def strip_root(arrays: Mapping[str, Any]) -> dict[str, Any]:
    """Takes the parameters out of a checkpoint that may hold an optimiser too."""
    root = next(r for r in ROOTS if any(name.startswith(r) for name in arrays) or not r)
    return {n.removeprefix(root): x for n, x in arrays.items() if n.startswith(root)}


def _shape(source: Mapping[str, Any], key: str, rank: int, file: str) -> tuple[int, ...]:
    if key not in source:
        raise UserError(
            f"{file}: expected the key {key!r} of a SigLIP or LiT from big_vision, found "
            f"{len(source)} keys without it (first: {', '.join(sorted(source)[:3]) or 'none'}); "
            "supported are two towers, img/ (a ViT with an attention-pooling head, or a class "
            "token) and txt/ (big_vision's text transformer, or flaxformer's BERT)"
        )
    if len(source[key].shape) != rank:
        raise UserError(
            f"{file}: {key}: expected {rank} axes, found {describe(source[key])}; "
            "check that the file is unmodified"
        )
    return tuple(source[key].shape)


def _depth(source: Mapping[str, Any], prefix: str) -> int:
    found = (re.match(rf"{re.escape(prefix)}_(\d+)/", name) for name in source)
    return max((int(number[1]) for number in found if number), default=-1) + 1


def _tower(source: Mapping[str, Any], encoder: str, file: str) -> tuple[dict[str, Any], bool]:
    scan = f"{encoder}/encoderblock/LayerNorm_0/scale" in source
    block = f"{encoder}/encoderblock" + ("" if scan else "_0")
    query = _shape(source, f"{block}/MultiHeadDotProductAttention_0/query/kernel", 3 + scan, file)
    hidden = _shape(source, f"{block}/MlpBlock_0/Dense_0/bias", 1 + scan, file)
    sizes = {
        "width": query[-3],
        "depth": query[0] if scan else _depth(source, f"{encoder}/encoderblock"),
        "heads": query[-2],
        "mlp_width": hidden[-1],
        "act": "gelu_tanh",
        "eps": 1e-6,
    }
    return sizes, scan


def _image_config(
    source: Mapping[str, Any], embed_dim: int, naflex: bool, file: str
) -> tuple[VisionConfig, bool]:
    sizes, scan = _tower(source, "img/Transformer", file)
    pool = "class" if "img/cls" in source else "map"
    if pool == "map":
        _shape(source, "img/MAPHead_0/probe", 3, file)
    patch = _shape(source, "img/embedding/kernel", 4, file)[0]
    rows = _shape(source, "img/pos_embedding", 3, file)[1] - int(pool == "class")
    grid = math.isqrt(rows)
    if grid * grid != rows:
        raise UserError(
            f"{file}: img/pos_embedding: expected a square of positions, found {rows}; only "
            "square grids are supported"
        )
    proj = "img/head/kernel" in source
    if not proj and sizes["width"] != embed_dim:
        raise UserError(
            f"{file}: expected img/head, which takes images from {sizes['width']} to the texts' "
            f"{embed_dim}, found none; check that the file is complete"
        )
    config = VisionConfig(
        grid * patch, patch, **sizes,
        pool=pool, pre_norm=False, conv_bias=True, proj=proj, proj_bias=proj,
        pos_resample="bilinear_antialias" if naflex else "zoom_linear",
    )  # fmt: skip
    return config, scan


def _text_config(source: Mapping[str, Any], file: str) -> tuple[TextConfig, bool]:
    if not any(name.startswith(f"{BERT}/") for name in source):
        sizes, scan = _tower(source, "txt/Encoder_0", file)
        context = _shape(source, "txt/pos_embedding", 3, file)[1]
        rows = _shape(source, "txt/Embed_0/embedding", 2, file)[0]
        return TextConfig(context, rows, **sizes, pool="last", causal=False, proj_bias=True), scan
    rows, width = _shape(source, f"{BERT}/embedder/embedders_token_ids/embedding", 2, file)
    context = _shape(source, f"{BERT}/embedder/embedders_position_ids/embedding", 2, file)[0]
    hidden = _shape(source, f"{BERT_LAYERS}/layers_0/mlp_block/mlp/dense_layer/bias", 1, file)
    if width % _BERT_HEAD:
        raise expected(
            f"{file}: {BERT}", f"a width of whole heads of {_BERT_HEAD}", str(width),
            "only BERT-base and BERT-large are supported",
        )  # fmt: skip
    return TextConfig(
        context, rows, width, _depth(source, f"{BERT_LAYERS}/layers"), width // _BERT_HEAD,
        hidden[0], "gelu_tanh", _BERT_EPS,
        pool="first", causal=False, proj_bias=True, post_norm=True,
    ), False  # fmt: skip


def from_arrays(
    arrays: Mapping[str, Any], *, name: str, file: str
) -> tuple[CLIPConfig, dict[str, Any], Any]:
    """Converts a big_vision tree; the architecture is read off the shapes.

    NaFlex becomes the ViT that it is on a square of its table's own grid.

    Returns:
        The configuration, nested float32 numpy parameters, and the report.

    Raises:
        UserError: for anything but a SigLIP or a LiT, and for names or shapes that do not fit.
    """
    source = strip_root(arrays)
    naflex = len(getattr(source.get("img/embedding/kernel"), "shape", ())) == 2
    source = modern(source)
    text, scan_text = _text_config(source, file)
    embed_dim = _shape(source, "txt/head/kernel", 2, file)[1]
    vision, scan_image = _image_config(source, embed_dim, naflex, file)
    config = CLIPConfig(name, embed_dim, vision, text, logit_bias="b" in source)
    rows = leaves(config, scan_image=scan_image, scan_text=scan_text)
    params, report = convert(source, rows, config, file=file)
    return config, params, report


def load_big_vision(path: Path) -> LoadedClip:
    """Loads an npz file, with what `save_npz` put beside it or else a tokenizer from its folder.

    Raises:
        UserError: for a broken or unsupported file, or when no tokenizer that fits is there.
    """
    config, params, report = from_arrays(read_npz(path), name=path.stem, file=str(path))
    about = read_about(path)
    if about is None:
        tokenizer = _tokenizer_beside(path, config.text)
        provenance, defaults = unknown_provenance(path), {}
        size = config.vision.image_size
        preprocess = Preprocess(size, _HALF, _HALF, "squash", "bilinear", antialias=False)
    else:
        tokenizer, preprocess, provenance, defaults = about
    check_vocabulary(tokenizer, config.text, str(path))
    return LoadedClip(
        config=config,
        params=params,
        preprocess=preprocess,
        tokenizer=tokenizer,
        provenance=provenance,
        defaults=defaults,
        report=report,
    )


def _tokenizer_beside(path: Path, text: TextConfig) -> Tokenizer:
    if text.post_norm:
        return bert_vocabulary(path)
    return siglip_vocabulary(
        path.parent, context=text.context, vocab_size=text.vocab_size, clean="lower"
    )


def save_npz(
    path: str | os.PathLike[str],
    params: Params,
    config: CLIPConfig,
    *,
    root: str = "params/",
    scan: bool = False,
    dtype: str = "float32",
) -> None:
    """Writes a SigLIP or LiT as a big_vision npz file, one array at a time.

    big_vision's `two_towers.load` takes it as it is: `params/` is the root that its trainers
    write beside an optimiser, and the numbers are those of `params`.

    Args:
        path: the file.
        params: our parameters.
        config: a SigLIP's or a LiT's.
        root: one of `ROOTS`.
        scan: stack the blocks, as SigLIP 2's files do, instead of keeping them apart. A BERT's
            stay apart.
        dtype: "float32", "bfloat16" or "float16".

    Raises:
        UserError: for a model that big_vision's towers cannot hold, naming what is in the way.
    """
    check_writable(config)
    rows = leaves(config, scan_image=scan, scan_text=scan, class_position=False)
    arrays = export(_fold_class(params, config), rows)
    write_npz(path, _stored(arrays, config, dtype), root=root)


def check_writable(config: CLIPConfig) -> None:
    """Raises UserError, naming what is in the way, for a model that big_vision cannot hold."""
    v, t = config.vision, config.text
    wants: list[tuple[str, Any, tuple[Any, ...]]] = [
        ("image pooling", v.pool, ("map", "class")),
        ("LayerNorm before the first block", v.pre_norm, (False,)),
        ("a bias on the patches", v.conv_bias, (True,)),
        ("image activation", v.act, ("gelu_tanh",)),
        ("image eps", v.eps, (1e-6,)),
        ("a bias on the image projection", v.proj_bias, (v.proj,)),
        ("a bias on the text projection", t.proj_bias, (True,)),
        ("causal text", t.causal, (False,)),
        ("text pooling", t.pool, ("first" if t.post_norm else "last",)),
        ("text activation", t.act, ("gelu_tanh",)),
        ("text eps", t.eps, (_BERT_EPS if t.post_norm else 1e-6,)),
        ("text heads", t.heads, (t.width // _BERT_HEAD if t.post_norm else t.heads,)),
    ]
    for what, got, allowed in wants:
        if got not in allowed:
            raise UserError(
                f"model: expected a SigLIP or LiT, got {config.name!r}, which big_vision's towers "
                f"cannot hold ({what}: {got}, there {' or '.join(map(str, allowed))}); write a "
                "folder instead"
            )


def _fold_class(params: Params, config: CLIPConfig) -> Params:
    """Adds the class token's position to it: big_vision has no row for that."""
    if config.vision.pool != "class":
        return params
    visual = dict(params["visual"])
    table = np.asarray(visual["positional_embedding"])
    visual["class_embedding"] = np.asarray(visual["class_embedding"]) + table[0]
    visual["positional_embedding"] = table[1:]
    return {**params, "visual": visual}


def _stored(
    arrays: Iterator[tuple[str, np.ndarray]], config: CLIPConfig, dtype: str
) -> Iterator[tuple[str, np.ndarray]]:
    for name, array in arrays:
        yield name, cast(name, array, DTYPES[STORAGE[dtype]])
    if config.text.post_norm:
        # Segments were added to the positions when the file was read.
        zeros = np.zeros((2, config.text.width), DTYPES[STORAGE[dtype]])
        yield f"{BERT}/embedder/embedders_segment_ids/embedding", zeros
