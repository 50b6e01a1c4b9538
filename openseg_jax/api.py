"""Five lines from a picture and words to masks: what the command line does, as functions.

    import openseg_jax
    result = openseg_jax.segment("photo.jpg", ["zebra", "grass"])
    print(result.scores)          # {"zebra": 0.98, "grass": 0.91}
    result.label_map              # Int[H W], 0 background, 1 zebra, 2 grass
    result.save("out")            # label PNG, overlay with legend, JSON with masks

The names are free text; method, model and the method's settings are arguments of `segment`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from PIL import Image

import openseg_jax
from openseg_jax import viz
from openseg_jax.errors import check_shape, expected
from openseg_jax.files import atomic_write
from openseg_jax.inputs import images as pictures
from openseg_jax.inputs.labels import merge_duplicates, without
from openseg_jax.methods import rounds
from openseg_jax.methods.base import Segmenter, load_segmenter
from openseg_jax.ops import rle
from openseg_jax.types import Bool, Int, UInt8

MAX_SIDE = 1024
"""Longer sides are reduced to this before segmentation (pixels), unless told otherwise."""

MAX_PATCHES = 4096
"""The same for the patches of a picture: attention needs memory for their square."""

OUTPUTS = (".png", "_overlay.png", ".json")
"""Endings of the files that `Segmentation.save` writes: labels, overlay, masks and scores."""


@dataclasses.dataclass(frozen=True)
class Segmentation:
    """One segmented picture.

    Attributes:
        image: UInt8[H W 3], the picture at its own size.
        label_map: Int[H W] at the same size, 0 background, i is `names[i - 1]`.
        names: all labels that were asked for, duplicates merged.
        kept: the labels that survived, in the order of `names`.
        scores: label -> score in [0, 1]; 0 for labels that were dropped.
        record: provenance: version, weights and what they saw, settings, device, sizes.
        notes: what a person should know about this result, e.g. words unknown to the model.
    """

    image: UInt8[np.ndarray, "H W 3"]
    label_map: Int[np.ndarray, "H W"]
    names: tuple[str, ...]
    kept: tuple[str, ...]
    scores: dict[str, float]
    record: dict[str, Any]
    notes: tuple[str, ...] = ()

    @property
    def masks(self) -> dict[str, Bool[np.ndarray, "H W"]]:
        """Label -> its pixels, for the labels that were kept."""
        return {name: self.label_map == self.names.index(name) + 1 for name in self.kept}

    @property
    def areas(self) -> dict[str, float]:
        """Label -> share of the picture in [0, 1]."""
        counts = np.bincount(self.label_map.ravel(), minlength=len(self.names) + 1)[1:]
        shares = counts / self.label_map.size
        return dict(zip(self.names, shares.tolist(), strict=True))

    def overlay(self, *, alpha: float = 0.55) -> UInt8[np.ndarray, "h w 3"]:
        """Paints the labels over the picture, with a legend (see `viz.overlay`)."""
        scores = {name: self.scores[name] for name in self.kept}
        return viz.overlay(self.image, self.label_map, self.names, scores=scores, alpha=alpha)

    def to_json(self) -> dict[str, Any]:
        """Returns everything but the picture as JSON data; masks as COCO RLE."""
        areas, masks = self.areas, []
        for name in self.kept:
            place = self.names.index(name) + 1
            mask = self.label_map == place
            masks.append(
                {
                    "label": name,
                    "id": place,
                    "score": round(self.scores[name], 6),
                    "area": int(mask.sum()),
                    "area_share": round(areas[name], 6),
                    "segmentation": rle.encode(mask),
                }
            )
        return {
            "classes": viz.class_table(self.names),
            "masks": masks,
            "dropped": [name for name in self.names if name not in set(self.kept)],
            "notes": list(self.notes),
            "provenance": self.record,
        }

    def save(self, folder: str | os.PathLike[str], stem: str = "result") -> list[Path]:
        """Writes STEM.png, STEM_overlay.png and STEM.json, each one whole or not at all.

        Args:
            folder: made where it does not exist; files of these names are replaced.
            stem: beginning of the file names.
        Returns:
            the three paths.
        Raises:
            UserError: when they cannot be written.
        """
        paths = [Path(folder) / (stem + end) for end in OUTPUTS]
        text = json.dumps(self.to_json(), ensure_ascii=False, indent=1)
        # All three are made before the first is put in place: no half results on a full disk.
        with contextlib.ExitStack() as stack:
            aside = [stack.enter_context(atomic_write(path)) for path in paths]
            viz.write_labels(aside[0], self.label_map, self.names)
            Image.fromarray(self.overlay()).save(aside[1], "PNG")
            aside[2].write_text(text + "\n", encoding="utf-8")
        return paths


@functools.lru_cache(maxsize=2)
def load(method: str, model: Any, settings: tuple[tuple[str, Any], ...] = ()) -> Segmenter:
    """Loads a method with its weights; the two used last are kept.

    Args:
        method: a key of `methods.base.METHODS`.
        model: a name or path of weights, or a loaded CLIP.
        settings: of the method, as pairs.
    Returns:
        the segmenter.
    """
    return load_segmenter(method, model, **dict(settings))


def frozen_settings(settings: Mapping[str, Any]) -> tuple[tuple[str, Any], ...]:
    """Turns settings into what `load` takes: sorted pairs, lists and dicts made hashable."""

    def freeze(value: Any) -> Any:
        if isinstance(value, Mapping):
            return frozen_settings(value)
        return tuple(map(freeze, value)) if isinstance(value, list) else value

    return tuple(sorted((name, freeze(value)) for name, value in settings.items()))


def segment(
    image: str | os.PathLike[str] | UInt8[np.ndarray, "H W 3"],
    labels: Iterable[str],
    *,
    method: str = "car",
    model: Any = "miniature",
    background: Sequence[str] | None = None,
    max_side: int = MAX_SIDE,
    **settings: Any,
) -> Segmentation:
    """Segments one picture by free text.

    Args:
        image: a path, or an RGB array.
        labels: what to look for, in any words; a label may hold synonyms ("person, people").
        method: "car", "clip_dense", "maft" or "segclip".
        model: "miniature" (bundled; knows only its own drawn world), a name or a folder.
        background: texts that may take pixels and are not reported; None takes the method's own,
            [] none. What is also a label is left out.
        max_side: a longer side is reduced to this many pixels first; masks come back at the
            picture's own size.
        **settings: of the method, e.g. `refine="none"`.
    Returns:
        the result.
    Raises:
        UserError: naming what is wrong with picture, labels, names or settings.
    """
    names, merged = merge_duplicates(labels)
    if not isinstance(image, np.ndarray):
        image = pictures.read_image(image)
    segmenter = load(method, model, frozen_settings(settings))
    (result,) = segment_batch(
        segmenter, [image], names, background=background, max_side=max_side, merged=merged
    )
    return result


def segment_batch(
    segmenter: Segmenter,
    images: Sequence[UInt8[np.ndarray, "H W 3"]],
    names: Sequence[str],
    *,
    background: Sequence[str] | None = None,
    max_side: int = MAX_SIDE,
    merged: Sequence[str] = (),
    progress: Callable[[float], None] | None = None,
) -> list[Segmentation]:
    """Segments pictures of one size in one call.

    Args:
        segmenter: from `load`.
        images: RGB, all of one size.
        names: distinct labels.
        background, max_side: as for `segment`.
        merged: duplicates that were merged into `names`, for the notes.
        progress: called with the share of the work that is done, in [0, 1].
    Returns:
        one result a picture.
    """
    for image in images:
        check_shape(image, "H W 3", "image", dtype="uint8", fix="give 8-bit RGB, channels last")
    limit = side_limit(segmenter, images[0].shape[:2], max_side)
    small: Any = np.stack([pictures.fit_long_side(image, limit) for image in images])
    if background is not None:
        background = without(background, names)
    told = progress or (lambda share: None)
    labels, scores, alive = rounds.compete(segmenter, small, list(names), background, told)
    notes = label_notes(segmenter, names, merged)
    if rounds.needed(segmenter, len(names)):
        notes.append(
            f"{len(names)} labels compete in rounds of at most {rounds.ROUND}; survivors meet at "
            "the end"
        )
    record = provenance(segmenter) | {
        "background": "default" if background is None else list(background),
        "size": list(images[0].shape[:2]),
        "segmented_size": list(small.shape[1:3]),
        "resize_rule": {"name": pictures.RESIZE_RULE, "long_side": limit},
    }
    if small.shape[1:3] != images[0].shape[:2]:
        notes.append(
            f"{images[0].shape[1]}x{images[0].shape[0]} pixels were segmented at "
            f"{small.shape[2]}x{small.shape[1]} (rule {pictures.RESIZE_RULE}, {limit})"
        )
    return [
        Segmentation(
            image=image,
            label_map=pictures.restore_labels(labels[i], image.shape[:2]),
            names=tuple(names),
            kept=tuple(name for name, kept in zip(names, alive[i], strict=True) if kept),
            scores=dict(zip(names, np.round(scores[i].astype(float), 6).tolist(), strict=True)),
            record=record,
            notes=tuple(notes),
        )
        for i, image in enumerate(images)
    ]


def side_limit(segmenter: Segmenter, size: tuple[int, ...], max_side: int = MAX_SIDE) -> int:
    """Chooses the long side at which a picture is segmented.

    Args:
        segmenter: its patches decide, together with `MAX_PATCHES`.
        size: (H, W) of the picture, pixels.
        max_side: upper limit, pixels.
    Returns:
        pixels; the picture's own long side where that is within both limits.
    """
    if max_side < 1:
        raise expected("max_side", "at least 1 pixel", str(max_side), f"try {MAX_SIDE}")
    patch = max([m.config.vision.patch_size for m in loaded_models(segmenter)[:1]], default=16)
    height, width = size
    patches = -(-height // patch) * -(-width // patch)
    limit = min(max_side, max(size))
    if patches > MAX_PATCHES:
        limit = min(limit, int(max(size) * (MAX_PATCHES / patches) ** 0.5))
    return max(limit, 1)


def loaded_models(segmenter: Segmenter) -> list[Any]:
    """Lists the weights that a segmenter uses, each once; the one that draws masks first."""
    found = (getattr(segmenter, name, None) for name in ("cam", "classifier", "clip"))
    return list({id(model): model for model in found if model is not None}.values())


def provenance(segmenter: Segmenter) -> dict[str, Any]:
    """Says what made a result: versions, weights and what they saw, settings, device."""
    device = jax.devices()[0]
    models = [
        {**model.provenance, "fingerprint": model.fingerprint} for model in loaded_models(segmenter)
    ]
    config: Any = getattr(segmenter, "config", None)
    known = dataclasses.is_dataclass(config) and not isinstance(config, type)
    settings: dict[str, Any] = dataclasses.asdict(config) if known else {}  # type: ignore[arg-type]
    masks = getattr(segmenter, "masks", None)
    models += [] if masks is None else [masks.provenance]
    return {
        "openseg_jax": openseg_jax.__version__,
        "jax": jax.__version__,
        "method": type(segmenter).__name__,
        "models": models,
        "settings": settings,
        "device": f"{device.platform} ({device.device_kind})",
    }


def label_notes(
    segmenter: Segmenter, names: Sequence[str], merged: Sequence[str] = ()
) -> list[str]:
    """Says what a person should know about labels: merged, cut short, unknown to the model.

    Args:
        segmenter: whose tokenizers are asked.
        names: distinct labels.
        merged: duplicates that were merged into them.
    Returns:
        one sentence a note.
    """
    notes = []
    if merged:
        notes.append(f"duplicate labels were merged: {_some(dict.fromkeys(merged))}")
    config = getattr(segmenter, "config", None)
    template = getattr(config, "cam_template", None)
    template = template or max(getattr(config, "templates", ()) or ("{}",), key=len)
    for model in loaded_models(segmenter):
        tokenizer = model.tokenizer
        ends = (tokenizer.start is not None) + (tokenizer.end is not None)
        room = tokenizer.context - ends
        long = [n for n in names if len(tokenizer.tokens(template.replace("{}", n))) > room]
        unknown = dict.fromkeys(word for name in names for word in tokenizer.unknown(name))
        called = model.provenance.get("name", "the model")
        if long:
            notes.append(
                f"{called} reads {tokenizer.context} tokens; only the beginning counts of: "
                f"{_some([name[:40] + '…' for name in long])}"
            )
        if unknown:
            known = model.defaults.get("labels", ())
            world = f"; it knows only its own world: {', '.join(known)}" if known else ""
            notes.append(f"{called} has never seen these words: {_some(unknown)}{world}")
    return notes


def _some(names: Iterable[str], most: int = 12) -> str:
    names = list(names)
    shown = ", ".join(" ".join(name.split())[:60] for name in names[:most])
    return shown if len(names) <= most else f"{shown} and {len(names) - most} more"
