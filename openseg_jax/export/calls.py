"""What the programs of each method take: parameters, embeddings, and how names become those."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from openseg_jax.api import MAX_PATCHES
from openseg_jax.errors import UserError, expected
from openseg_jax.methods.base import Segmenter
from openseg_jax.methods.car import CaR
from openseg_jax.methods.car_texts import CarText
from openseg_jax.methods.clip_dense import ClipDense
from openseg_jax.methods.clip_dense_texts import DenseText
from openseg_jax.methods.maft import Maft
from openseg_jax.methods.maft_texts import MaftText
from openseg_jax.methods.proposals import GivenMasks
from openseg_jax.methods.proposals_regions import Regions
from openseg_jax.methods.rounds import ROUND
from openseg_jax.methods.segclip import SegClip
from openseg_jax.methods.segclip_texts import SegClipText
from openseg_jax.types import Array, Params
from openseg_jax.weights.loaded import LoadedClip
from openseg_jax.weights.segclip_folder import segclip_of

__all__ = ["Call", "canvas_size", "describe"]

SYNONYMS = 8
"""How many synonyms of a name an export of dense CLIP takes."""

_ALL = "8*k"
_COPY = {"rule": "fit", "short_side": 0, "filter": "bicubic"}


@dataclasses.dataclass(frozen=True)
class Tower:
    """A text tower and what it reads. `unit` scales its embeddings to unit length."""

    clip: LoadedClip
    unit: bool = True


@dataclasses.dataclass(frozen=True)
class Call:
    """One method, ready to be traced.

    Attributes:
        segmenter: whose `segment` is traced; its `params` are what the programs share.
        text: makes the method's text of arrays, by the names in `arrays`.
        arrays: name -> (dtype, shape as `jax.export.symbolic_shape` reads it).
        least, most: rows of texts; None is no limit.
        recipe: how names become those arrays, for `export.words`.
        towers: text towers by the names that the recipe has for them.
        valid: pictures may be smaller than the canvas.
        masks: proposals are an input.
        fit: how a picture is put on the canvas, see `export.canvas.fit`.
    """

    segmenter: Any
    text: Callable[[Mapping[str, Array]], Any]
    arrays: dict[str, tuple[str, str]]
    least: int
    most: int | None
    recipe: dict[str, Any]
    towers: dict[str, Tower]
    valid: bool = True
    masks: bool = False
    fit: dict[str, Any] = dataclasses.field(default_factory=lambda: dict(_COPY))

    @property
    def params(self) -> Params:
        """Parameters of the image side; none for proposals that are given."""
        kept = {name: tree for name, tree in self.segmenter.params.items() if name != "source"}
        return kept if self.masks else dict(self.segmenter.params)


def describe(segmenter: Segmenter) -> Call:
    """Says what a segmenter's programs take.

    Raises:
        UserError: for a method, or a setting, that cannot leave this library.
    """
    for kind, builder in _BUILDERS.items():
        if isinstance(segmenter, kind):
            call = builder(segmenter)
            call.recipe["rows"] = {"least": call.least, "most": call.most}
            return call
    raise expected(
        "segmenter", "car, clip_dense, maft or segclip", type(segmenter).__name__,
        "load one with load_segmenter",
    )  # fmt: skip


def _car(car: CaR) -> Call:
    config = car.config
    if car.host_only:
        raise UserError(
            "sam: its masks are matched on the host, which an export leaves behind; leave it out"
        )
    templated = bool(config.templates)
    if config.char_bug and not templated:
        raise UserError(
            "char_bug: its texts depend on how many there are, which an export leaves open; set "
            "char_bug=False"
        )
    own, other = car.cam.config.embed_dim, car.classifier.config.embed_dim
    count = len(config.templates) or 1

    def text(arrays: Mapping[str, Array]) -> CarText:
        return CarText(**arrays, later=None, templated=templated)

    return Call(
        segmenter=car,
        text=text,
        arrays={
            "raw": ("float32", f"{_ALL}, {own}"),
            "cam": ("float32", f"{_ALL}, {own}"),
            "background": ("float32", f"8*g, {own}"),
            "first": ("float32", f"{count}, {_ALL}, {other}"),
            "valid": ("bool", _ALL),
        },
        least=8,
        most=ROUND,
        recipe={
            "kind": "car", "cam_template": config.cam_template,
            "templates": list(config.templates), "background": list(config.background),
            "keep_shared": config.shared_background, "raw_first": config.raw_names_first_step,
        },
        towers={"cam": Tower(car.cam), "classifier": Tower(car.classifier)},
    )  # fmt: skip


def _clip_dense(dense: ClipDense) -> Call:
    config, width = dense.config, dense.clip.config.embed_dim
    whole = dense.reader.plan.whole

    def text(arrays: Mapping[str, Array]) -> DenseText:
        return DenseText(**arrays, count=arrays["real"].shape[0])

    return Call(
        segmenter=dense,
        text=text,
        arrays={
            "rows": ("float32", f"8*g, {width}"),
            "kind": ("int32", "8*g"),
            "members": ("int32", f"{_ALL}, {SYNONYMS}"),
            "real": ("bool", _ALL),
        },
        least=8,
        most=ROUND,
        recipe={
            "kind": "clip_dense", "templates": list(config.templates),
            "background": list(config.background), "keep_shared": config.keep_shared,
            "synonyms": SYNONYMS,
        },
        towers={"text": Tower(dense.clip)},
        # A whole picture's grid of patches has to be known when it is traced.
        valid=not whole,
        fit={**_COPY, "rule": "squash" if whole else "fit"},
    )  # fmt: skip


def _maft(maft: Maft) -> Call:
    config, width = maft.config, maft.clip.config.embed_dim
    if config.pad_to:
        raise UserError(
            f"pad_to: {config.pad_to} depends on each picture's size, which an export leaves open; "
            "set pad_to=0"
        )
    masks = isinstance(maft.source, Regions | GivenMasks)
    if masks:
        maft = Maft(maft.clip, GivenMasks(), config, dtype=maft.dtype)

    def text(arrays: Mapping[str, Array]) -> MaftText:
        return MaftText(**arrays, count=arrays["valid"].shape[0])

    return Call(
        segmenter=maft,
        text=text,
        arrays={
            "rows": ("float32", f"{_ALL}, {width}"),
            "valid": ("bool", _ALL),
            "seen": ("bool", _ALL),
        },
        least=8,
        most=None,
        recipe={
            "kind": "maft", "templates": list(config.templates),
            "background": list(config.background), "keep_shared": False, "seen": list(config.seen),
        },
        towers={"text": Tower(maft.clip)},
        masks=masks,
        fit={"rule": "fit", "short_side": maft.encoder.plan.short_edge, "filter": "bilinear"},
    )  # fmt: skip


def _segclip(segclip: SegClip) -> Call:
    config, width = segclip.config, segclip.clip.config.embed_dim
    _, params = segclip_of(segclip.clip)
    clip = dataclasses.replace(segclip.clip, params={"text": params["text"]})

    def text(arrays: Mapping[str, Array]) -> SegClipText:
        return SegClipText(**arrays, count=arrays["valid"].shape[0])

    return Call(
        segmenter=segclip,
        text=text,
        arrays={"rows": ("float32", f"{_ALL}, {width}"), "valid": ("bool", _ALL)},
        # The classes that a window may hold are chosen among no fewer.
        least=max(8, -(-config.top_classes // 8) * 8),
        most=ROUND,
        recipe={
            "kind": "segclip", "templates": list(config.templates),
            "background": list(config.background), "keep_shared": False,
        },
        towers={"text": Tower(clip, unit=False)},
    )  # fmt: skip


_BUILDERS: dict[type, Callable[[Any], Call]] = {
    CaR: _car, ClipDense: _clip_dense, Maft: _maft, SegClip: _segclip,
}  # fmt: skip


def canvas_size(call: Call, size: tuple[int, int] | None) -> tuple[int, int]:
    """Chooses the canvas that pictures are put on.

    Grids of patches, windows and the CRF's lattices follow from it, so it is fixed in the program.

    Args:
        call: of the method.
        size: (H, W), pixels, rounded up to whole patches; None takes a square of twice the
            tower's own side, at most 512, or where pictures are resized to a short side, 4/3 of
            that, which holds pictures of 4:3 either way up.

    Raises:
        UserError: for a size without a pixel, or with more patches than memory is likely to hold.
    """
    vision = next(iter(call.towers.values())).clip.config.vision
    patch, short = vision.patch_size, call.fit["short_side"]
    side = -(-short * 4 // 3) if short else min(2 * vision.image_size, 512)
    asked = (side, side) if size is None else size
    if min(asked) < 1:
        raise expected("size", "at least 1 pixel a side", f"{asked[0]}x{asked[1]}", "try 512x512")
    height, width = (-(-n // patch) * patch for n in asked)
    patches = height // patch * (width // patch)
    if patches > MAX_PATCHES:
        raise expected(
            "size", f"at most {MAX_PATCHES} patches of {patch} pixels",
            f"{asked[0]}x{asked[1]} with {patches}", "shrink it: pictures are fitted in",
        )  # fmt: skip
    return height, width
