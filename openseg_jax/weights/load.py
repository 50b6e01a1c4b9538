"""`load_clip`: one call for a name, a file or a folder of any supported format.

The format is told by content, in `detect`, and nowhere else.
"""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

import jax.numpy as jnp
import numpy as np

from openseg_jax.errors import UserError
from openseg_jax.models.variants import Preprocess, variant
from openseg_jax.ops.posembed import resample_positions
from openseg_jax.text.tokenizer import openai_tokenizer
from openseg_jax.weights import hub, maft, open_clip, openai
from openseg_jax.weights.big_vision import load_big_vision
from openseg_jax.weights.folder import CONFIG_FILE, FORMAT, WEIGHTS_FILE, load_folder, read_json
from openseg_jax.weights.huggingface import load_huggingface
from openseg_jax.weights.loaded import LoadedClip, unknown_provenance
from openseg_jax.weights.npz import is_npz
from openseg_jax.weights.registry import KNOWN, MINIATURE, known, resolve
from openseg_jax.weights.segclip import MARK as SEGCLIP_MARK
from openseg_jax.weights.segclip_folder import load_segclip
from openseg_jax.weights.tensors import find_weights, open_tensors
from openseg_jax.weights.torch_zip import is_torch_script, is_torch_zip
from openseg_jax.weights.tree import convert

_OPENAI_PROVENANCE = {
    "source": "https://github.com/openai/CLIP",
    "licence": "MIT",
    "saw": KNOWN["ViT-B-16"].saw,
}


def detect(path: Path) -> str:
    """Names the format of a file or folder, by its content.

    Returns:
        "folder", "open_clip", "huggingface", "big_vision", "openai" (TorchScript) or "bare" (a
        state dict: MAFT's, FreeSeg's and SegCLIP's are told by their names, others say nothing).

    Raises:
        UserError: when there is nothing there, or nothing of a known format.
    """
    if not path.exists():
        raise UserError(f"{path}: no such file or folder; check the path, or see `openseg models`")
    if path.is_dir():
        config = read_json(path / CONFIG_FILE) if (path / CONFIG_FILE).is_file() else {}
        if config.get("format") == FORMAT:
            return "folder"
        if (path / open_clip.CONFIG_FILE).is_file() and (
            find_weights(path, open_clip.STEMS) or "model_type" not in config
        ):
            return "open_clip"
        if "model_type" in config:
            return "huggingface"
        raise UserError(
            f"{path}: expected a model folder (config.json of openseg_jax or transformers, or "
            f"{open_clip.CONFIG_FILE}), found none; give the folder that holds it"
        )
    if is_torch_zip(path):
        return "openai" if is_torch_script(path) else "bare"
    if is_npz(path):
        return "big_vision"
    # What is left is safetensors, an older pickle, or something broken: the readers say which.
    return "bare"


def _load_state(path: Path, model: str | None, *, script: bool) -> LoadedClip:
    state = open_tensors(path)
    if script:
        config, params, report = openai.from_state_dict(state, name=path.stem, file=str(path))
        provenance = {"name": path.stem, **_OPENAI_PROVENANCE}
    elif maft.is_maft(state):
        return maft.load_maft(path, state)
    elif SEGCLIP_MARK in state:
        return load_segclip(path, state)
    else:
        if any(key.startswith("vision_model.") for key in state):
            raise UserError(
                f"{path}: names of transformers without their config.json; give the whole folder"
            )
        if model is None:
            raise UserError(
                f"{path}: a bare state dict does not say its activation; say which model it is, "
                "e.g. --model ViT-B-16 (QuickGELU) or ViT-B-16-laion (GELU)"
            )
        config = variant(model)
        if config.vision.pool != "class":
            raise UserError(
                f"model {model!r}: a bare state dict can only be a CLIP; give SigLIP's folder"
            )
        params, report = convert(state, openai.LEAVES, config, file=str(path), allow=openai.ALLOW)
        provenance = unknown_provenance(path)
    return LoadedClip(
        config=config,
        params=params,
        preprocess=Preprocess(config.vision.image_size),
        tokenizer=openai_tokenizer(config.text.context),
        provenance=provenance,
        defaults={},
        report=report,
    )


def load_path(path: Path, model: str | None = None) -> LoadedClip:
    """Loads a file or folder. Arguments as in `load_clip`."""
    kind = detect(path)
    readers = {
        "folder": load_folder,
        "open_clip": open_clip.load_open_clip,
        "huggingface": load_huggingface,
        "big_vision": load_big_vision,
    }
    if kind in readers:
        return readers[kind](path)
    return _load_state(path, model, script=kind == "openai")


def _load_pulled(pulled: hub.Pulled, model: str | None) -> LoadedClip:
    loaded = load_path(pulled.folder, model)
    if loaded.provenance != unknown_provenance(pulled.folder):
        return loaded
    # A foreign folder does not say where it comes from, but we know.
    known = {"name": pulled.repo, "source": f"{pulled.url}/tree/{pulled.commit}"}
    return dataclasses.replace(loaded, provenance={**loaded.provenance, **known})


def resize_clip(loaded: LoadedClip, image_size: int) -> LoadedClip:
    """Resamples the position table to another image size, by the weights' own convention.

    Towers take any size as they are; this makes `image_size` the native one, e.g. before
    training on it or for a preprocessor of that size.

    Raises:
        UserError: for a size that is not a multiple of the patch.
    """
    vision = loaded.config.vision
    if image_size < vision.patch_size or image_size % vision.patch_size:
        raise UserError(
            f"image_size: expected a multiple of the patch size {vision.patch_size}, got "
            f"{image_size}; round it"
        )
    if image_size == vision.image_size:
        return loaded
    if loaded.extras:
        raise UserError(
            f"image_size: expected {vision.image_size} for weights that carry parts of a method "
            f"({', '.join(sorted(loaded.extras))}), got {image_size}; leave it out: towers take "
            "any size as they are"
        )
    resized = dataclasses.replace(vision, image_size=image_size)
    visual = dict(loaded.params["visual"])
    visual["positional_embedding"] = np.asarray(
        resample_positions(
            jnp.asarray(visual["positional_embedding"]),
            (resized.grid, resized.grid),
            convention=vision.pos_resample,
            prefix=int(vision.pool == "class"),
        )
    )
    line = f"visual/positional_embedding: {vision.grid}² to {resized.grid}² ({vision.pos_resample})"
    report = dataclasses.replace(loaded.report, resampled=[*loaded.report.resampled, line])
    return dataclasses.replace(
        loaded,
        config=dataclasses.replace(loaded.config, vision=resized),
        params={**loaded.params, "visual": visual},
        preprocess=dataclasses.replace(loaded.preprocess, size=image_size),
        report=report,
    )


def load_clip(
    name_or_path: str | os.PathLike[str] | LoadedClip, *, model: str | None = None
) -> LoadedClip:
    """Loads a CLIP with its preprocessing, tokenizer and provenance.

    Args:
        name_or_path: "miniature"; a file or folder (ours, OpenAI's .pt, open_clip's,
            transformers', big_vision's .npz); or a known name (`openseg models`), which comes
            from the Hugging Face cache, or from the hub where there is a network. What is loaded
            already is returned as it is. "hf:owner/name[@revision]" is a repository on the hub.
        model: the architecture, for a bare state dict that does not carry it.

    Returns:
        See `LoadedClip`. Nothing is guessed: what a format does not carry is an error.

    Raises:
        UserError: naming the file, the key, what was expected and what was found.
    """
    if not isinstance(name_or_path, str | os.PathLike):
        return name_or_path
    if name_or_path == "miniature":
        if not (MINIATURE / WEIGHTS_FILE).is_file():
            raise UserError(
                f"{MINIATURE}: the miniature's weights are not installed; install the package "
                "again, or train them: openseg train --config configs/miniature_clip.py"
            )
        return load_folder(MINIATURE)
    name = str(name_or_path)
    if name.startswith(hub.PREFIX):
        return _load_pulled(hub.pull(name.removeprefix(hub.PREFIX)), model)
    path = Path(name_or_path)
    if path.exists() or path.suffix in (".pt", ".bin", ".npz", ".safetensors"):
        return load_path(path, model)
    if path.is_absolute() or name.startswith((".", "~")):
        return load_path(path.expanduser(), model)
    entry = known(name)
    loaded = load_path(resolve(entry))
    return dataclasses.replace(
        loaded,
        config=dataclasses.replace(loaded.config, name=entry.name),
        provenance=entry.provenance(),
    )
