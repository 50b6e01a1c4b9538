"""big_vision's npz files: SigLIP and SigLIP 2, read and written.

The tree is flax's: parameters bare at the root, or below "params/" (with an optimiser beside
them) or "opt/target/". Blocks are apart (`encoderblock_3`) or scanned (`encoderblock` with a
leading depth axis). numpy stores bfloat16 as two opaque bytes, which are viewed back.
"""

from __future__ import annotations

import os
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from openseg_jax.errors import UserError, describe
from openseg_jax.files import atomic_write
from openseg_jax.models.variants import CLIPConfig, Preprocess, TextConfig, VisionConfig
from openseg_jax.types import Params
from openseg_jax.weights.loaded import LoadedClip, unknown_provenance
from openseg_jax.weights.tree import Leaf, convert, export
from openseg_jax.weights.vocabulary import siglip_vocabulary

ROOTS = ("params/", "opt/target/", "")
# Squash to a square, TensorFlow's bilinear without antialiasing, whole grey levels, then ±1.
_HALF = (0.5, 0.5, 0.5)


class NpzArray:
    """An array in an npz file: shape and dtype now, numbers on `np.asarray`."""

    def __init__(self, path: Path, member: str) -> None:
        self.path, self.member = path, member
        with zipfile.ZipFile(path) as archive, archive.open(member) as file:
            version = np.lib.format.read_magic(file)
            read = (
                np.lib.format.read_array_header_1_0
                if version == (1, 0)
                else np.lib.format.read_array_header_2_0
            )
            self.shape, _, dtype = read(file)
        if dtype.hasobject:
            raise UserError(
                f"{path}: refused: {member} is a pickled object, and weights need only arrays; "
                "get the file from its first source"
            )
        self.dtype = np.dtype(ml_dtypes.bfloat16) if dtype == np.dtype("V2") else dtype

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        try:
            with zipfile.ZipFile(self.path) as archive, archive.open(self.member) as file:
                array = np.lib.format.read_array(file, allow_pickle=False).view(self.dtype)
        except (zipfile.BadZipFile, ValueError, EOFError, OSError) as error:
            raise _broken(self.path, f"{self.member} damaged") from error
        return array if dtype is None else array.astype(dtype)


def _broken(path: Path, why: str) -> UserError:
    return UserError(f"{path}: expected a complete npz file, found {why}; download the file again")


def is_npz(path: Path) -> bool:
    """Says whether `path` is a zip file of .npy arrays."""
    try:
        with zipfile.ZipFile(path) as archive:
            return any(name.endswith(".npy") for name in archive.namelist())
    except (OSError, zipfile.BadZipFile):
        return False


def read_npz(path: str | os.PathLike[str]) -> dict[str, NpzArray]:
    """Opens an npz file; arrays are read when they are used.

    Raises:
        UserError: for a file that is missing, cut short, or holds pickled objects.
    """
    path = Path(path)
    try:
        with zipfile.ZipFile(path) as archive:
            members = [name for name in archive.namelist() if name.endswith(".npy")]
        return {name.removesuffix(".npy"): NpzArray(path, name) for name in members}
    except UserError:
        raise
    except OSError as error:
        raise UserError(f"{path}: cannot read ({error.strerror}); check the path") from error
    except (zipfile.BadZipFile, ValueError, EOFError) as error:
        raise _broken(path, "no zip file, or one cut short") from error


def strip_root(arrays: Mapping[str, Any]) -> dict[str, Any]:
    """Takes the parameters out of a checkpoint that may hold an optimiser too."""
    root = next(r for r in ROOTS if any(name.startswith(r) for name in arrays) or not r)
    return {n.removeprefix(root): x for n, x in arrays.items() if n.startswith(root)}


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


def _pair(target: str, source: str, names: tuple[str, str]) -> list[Leaf]:
    return [Leaf(f"{target}/{name}", f"{source}/{name}") for name in names]


def _mlp(target: str, source: str) -> list[Leaf]:
    both = ("kernel", "bias")
    return _pair(f"{target}/c_fc", f"{source}/Dense_0", both) + _pair(
        f"{target}/c_proj", f"{source}/Dense_1", both
    )


def _blocks(target: str, source: str, tower: VisionConfig | TextConfig, scan: bool) -> list[Leaf]:
    block = f"{source}/encoderblock" + ("" if scan else "_{i}")
    both = ("scale", "bias")
    return [
        *_pair(f"{target}/ln_1", f"{block}/LayerNorm_0", both),
        *_attention(
            f"{target}/attn", f"{block}/MultiHeadDotProductAttention_0", tower.width, tower.heads
        ),
        *_pair(f"{target}/ln_2", f"{block}/LayerNorm_1", both),
        *_mlp(f"{target}/mlp", f"{block}/MlpBlock_0"),
    ]


def leaves(config: CLIPConfig, *, scan_image: bool = False, scan_text: bool = False) -> list[Leaf]:
    """Names all parameters of a SigLIP as big_vision does."""
    v, t = config.vision, config.text
    both, head = ("scale", "bias"), "img/MAPHead_0"
    return [
        *_pair("visual/conv1", "img/embedding", ("kernel", "bias")),
        Leaf("visual/positional_embedding", "img/pos_embedding", shape=(1, v.grid**2, v.width)),
        *_blocks("visual/blocks", "img/Transformer", v, scan_image),
        *_pair("visual/ln_post", "img/Transformer/encoder_norm", both),
        Leaf("visual/map_head/probe", f"{head}/probe", shape=(1, 1, v.width)),
        *_attention(
            "visual/map_head/attn", f"{head}/MultiHeadDotProductAttention_0", v.width, v.heads
        ),
        *_pair("visual/map_head/ln", f"{head}/LayerNorm_0", both),
        *_mlp("visual/map_head/mlp", f"{head}/MlpBlock_0"),
        Leaf("text/token_embedding", "txt/Embed_0/embedding"),
        Leaf("text/positional_embedding", "txt/pos_embedding", shape=(1, t.context, t.width)),
        *_blocks("text/blocks", "txt/Encoder_0", t, scan_text),
        *_pair("text/ln_final", "txt/Encoder_0/encoder_norm", both),
        *_pair("text/text_projection", "txt/head", ("kernel", "bias")),
        Leaf("logit_scale", "t", shape=(1,)),
        Leaf("logit_bias", "b", shape=(1,)),
    ]


def _tower(source: Mapping[str, Any], encoder: str, file: str) -> tuple[dict[str, Any], bool]:
    scan = f"{encoder}/encoderblock/LayerNorm_0/scale" in source
    block = f"{encoder}/encoderblock" + ("" if scan else "_0")
    query = _shape(source, f"{block}/MultiHeadDotProductAttention_0/query/kernel", 3 + scan, file)
    hidden = _shape(source, f"{block}/MlpBlock_0/Dense_0/bias", 1 + scan, file)
    numbers = [
        int(found[1])
        for name in source
        if (found := re.match(rf"{re.escape(encoder)}/encoderblock_(\d+)/", name))
    ]
    sizes = {
        "width": query[-3],
        "depth": query[0] if scan else max(numbers) + 1,
        "heads": query[-2],
        "mlp_width": hidden[-1],
        "act": "gelu_tanh",
        "eps": 1e-6,
    }
    return sizes, scan


def _shape(source: Mapping[str, Any], key: str, rank: int, file: str) -> tuple[int, ...]:
    if key not in source:
        raise UserError(
            f"{file}: expected the key {key!r} of a SigLIP from big_vision, found {len(source)} "
            f"keys without it (first: {', '.join(sorted(source)[:3]) or 'none'}); only two-tower "
            "SigLIPs with an attention-pooling head are supported"
        )
    if len(source[key].shape) != rank:
        raise UserError(
            f"{file}: {key}: expected {rank} axes, found {describe(source[key])}; "
            "check that the file is unmodified"
        )
    return tuple(source[key].shape)


def from_arrays(
    arrays: Mapping[str, Any], *, name: str, file: str
) -> tuple[CLIPConfig, dict[str, Any], Any]:
    """Converts a big_vision tree; the architecture is read off the shapes.

    Returns:
        The configuration, nested float32 numpy parameters, and the report.

    Raises:
        UserError: for anything but a SigLIP, and for names or shapes that do not fit.
    """
    source = strip_root(arrays)
    vision, scan_image = _tower(source, "img/Transformer", file)
    text, scan_text = _tower(source, "txt/Encoder_0", file)
    patch = _shape(source, "img/embedding/kernel", 4, file)[0]
    grid = round(_shape(source, "img/pos_embedding", 3, file)[1] ** 0.5)
    _shape(source, "img/MAPHead_0/probe", 3, file)
    config = CLIPConfig(
        name=name,
        embed_dim=_shape(source, "txt/head/kernel", 2, file)[1],
        vision=VisionConfig(
            grid * patch, patch, **vision,
            pool="map", pre_norm=False, conv_bias=True, proj=False, pos_resample="zoom_linear",
        ),
        text=TextConfig(
            _shape(source, "txt/pos_embedding", 3, file)[1],
            _shape(source, "txt/Embed_0/embedding", 2, file)[0],
            **text, pool="last", causal=False, proj_bias=True,
        ),
        logit_bias=True,
    )  # fmt: skip
    rows = leaves(config, scan_image=scan_image, scan_text=scan_text)
    params, report = convert(source, rows, config, file=file)
    return config, params, report


def load_big_vision(path: Path) -> LoadedClip:
    """Loads an npz file; the sentencepiece model has to lie beside it.

    Raises:
        UserError: for a broken or unsupported file, or when no tokenizer is there.
    """
    config, params, report = from_arrays(read_npz(path), name=path.stem, file=str(path))
    tokenizer = siglip_vocabulary(
        path.parent,
        context=config.text.context,
        vocab_size=config.text.vocab_size,
        clean="lower",
    )
    return LoadedClip(
        config=config,
        params=params,
        preprocess=Preprocess(
            config.vision.image_size, _HALF, _HALF, "squash", "bilinear", antialias=False
        ),
        tokenizer=tokenizer,
        provenance=unknown_provenance(path),
        defaults={},
        report=report,
    )


def save_npz(
    path: str | os.PathLike[str],
    params: Params,
    config: CLIPConfig,
    *,
    root: str = "params/",
    scan: bool = False,
) -> None:
    """Writes a SigLIP as a big_vision npz file, one array at a time.

    Args:
        path: the file.
        params: our parameters.
        config: a SigLIP's.
        root: one of `ROOTS`.
        scan: stack the blocks, as SigLIP 2's files do, instead of keeping them apart.

    Raises:
        UserError: for a model that big_vision's SigLIP cannot hold.
    """
    v, t = config.vision, config.text
    if (v.pool, v.proj, v.pre_norm, v.conv_bias, config.logit_bias, t.proj_bias) != (
        "map", False, False, True, True, True,
    ):  # fmt: skip
        raise UserError(
            f"model: expected a SigLIP, got {config.name!r}; big_vision's npz holds no other CLIP"
        )
    rows = leaves(config, scan_image=scan, scan_text=scan)
    with atomic_write(path) as aside, zipfile.ZipFile(aside, "w") as archive:
        for name, array in export(params, rows, np.float32):
            with archive.open(f"{root}{name}.npy", "w", force_zip64=True) as file:
                np.lib.format.write_array(file, array, allow_pickle=False)
