"""How each method is evaluated: its settings, its texts and what it calls background.

| method | settings | background of benchmarks with one | of benchmarks without |
|---|---|---|---|
| car | configs/car.py for the benchmark | its own texts compete, dropped texts and the CRF leave
  it | the same; what it leaves is missed (the published numbers forget those pixels) |
| segclip | configs/segclip.py | regions below the benchmark's threshold | no threshold: each pixel
  gets a class |
| clip_dense | configs/clip_dense.py | its own background texts compete, and a threshold where one
  is published | neither: each pixel gets a class |
| others | their own | background texts compete; pixels they win, or none, are background | no
  background texts: each pixel gets a class |

CaR segments vocabularies that tell stuff from things in two passes, things painted over stuff.
Sources: car.md §7.3, §8; segclip.md §10; maft.md §4.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from openseg_jax.errors import unknown_name
from openseg_jax.eval.benchmarks import Benchmark, Texts
from openseg_jax.methods.base import METHODS, Segmenter
from openseg_jax.methods.car_config import BACKGROUND
from openseg_jax.methods.maft_config import LONGEST_EDGE
from openseg_jax.methods.maft_encoder import short_edge_size
from openseg_jax.types import Int

# Methods with published settings a benchmark, in configs/METHOD.py.
_PRESETS = ("car", "segclip", "clip_dense")
# Methods whose masks are 0 or 1: they have decided for each pixel.
_DECIDED = ("segclip", "clip_dense")

__all__ = ["Handling", "Pass", "background_rule", "handling", "passes_for", "settings_for"]


@dataclasses.dataclass(frozen=True)
class Pass:
    """One call of a segmenter for a batch.

    Attributes:
        segmenter: the method. text: what its `classes` returned.
        names: what it looks for. ids: label of each, after 0 for the background.
        threshold: of `to_label_map`.
    """

    segmenter: Segmenter
    text: Any
    names: tuple[str, ...]
    ids: Int[np.ndarray, "K+1"]
    threshold: float | None


@dataclasses.dataclass(frozen=True)
class Handling:
    """What the loop has to know of a method.

    Attributes:
        resizes: the method brings pictures to a size of its own; no other limit is needed.
        work: (H, W) of a picture -> the size at which the method takes it on a padded canvas;
            None takes it as it is.
        host_loop: on a CPU the method's loop on the host is faster than one compiled program.
    """

    resizes: bool = False
    work: Callable[[tuple[int, int]], tuple[int, int]] | None = None
    host_loop: bool = False


def handling(method: str, segmenter: Any) -> Handling:
    """Says how a method takes pictures."""
    if method == "maft":
        # maft.md §4: on a padded canvas the method expects pictures at their short edge.
        short = segmenter.encoder.plan.short_edge
        work = functools.partial(short_edge_size, short=short, longest=LONGEST_EDGE)
        return Handling(resizes=True, work=work if short else None)
    return Handling(resizes=method in _DECIDED, host_loop=method == "car")


def settings_for(
    bench: Benchmark, method: str, given: Mapping[str, Any], parity: str | None = None
) -> dict[str, Any]:
    """Collects a method's settings for a benchmark.

    Args:
        bench: the benchmark.
        method: a key of `METHODS`; after a slash the method's `variant`.
        given: settings that win over the published ones.
        parity: "reference" for the published behaviour, or None.
    Raises:
        UserError: for an unknown method, with the nearest one.
    """
    method, _, variant = method.partition("/")
    if method not in METHODS:
        unknown_name(method, METHODS, "method")
    settings: dict[str, Any] = {}
    preset = bench.presets.get(method, bench.name)
    if method in _PRESETS:
        config = importlib.import_module(f"openseg_jax.configs.{method}")
        # Some variants have published settings of their own.
        names = (f"{variant}_{preset}", preset)
        preset = next((name for name in names if name in config.NAMES), "")
        if preset:
            settings |= config.get_config(preset).to_dict()
    if variant:
        settings["variant"] = variant
    if method in ("segclip", "clip_dense") and not bench.background:
        settings["bg_threshold"] = None
    if parity is not None:
        settings["parity"] = parity
    return settings | dict(given)


def _own_background(bench: Benchmark, method: str) -> bool:
    """Whether the method has a rule for the background, which it keeps."""
    if method == "clip_dense":
        return bench.background and not bench.background_texts
    return method in ("car", "segclip")


def background_rule(bench: Benchmark, method: str, texts: Texts) -> str:
    """Says in a sentence what becomes background; for the provenance."""
    two = "; things and stuff in two passes" if _two_passes(method, texts) else ""
    if method == "car":
        end = "" if bench.background else ", which counts as a miss"
        return f"texts of the method's own compete, and what no text wins is background{end}{two}"
    if not bench.background:
        return "none: each pixel gets a class"
    if method == "segclip":
        return "regions below bg_threshold"
    if _own_background(bench, method):
        return "background texts of the method's own compete, and bg_threshold where it is set"
    return f"{len(_rivals(bench, texts))} background texts compete, and what they win is background"


def passes_for(segmenter: Segmenter, bench: Benchmark, method: str, texts: Texts) -> list[Pass]:
    """Prepares a method for a benchmark: its passes, with their texts encoded.

    Args:
        segmenter: the method on its weights. method: its name.
        bench: the benchmark. texts: one a class.
    Returns:
        one pass, or that over stuff and then that over things.
    """
    if _two_passes(method, texts):
        return _things_and_stuff(segmenter, texts)
    background: tuple[str, ...] | None = None
    threshold = getattr(segmenter, "threshold", 0.5)
    if not _own_background(bench, method):
        background = _rivals(bench, texts) if bench.background else ()
        if not bench.background and method not in _DECIDED:
            threshold = None
    ids = np.arange(len(texts.names) + 1, dtype=np.int32)
    encoded = segmenter.classes(texts.names, background)
    return [Pass(segmenter, encoded, texts.names, ids, threshold)]


def _rivals(bench: Benchmark, texts: Texts) -> tuple[str, ...]:
    # A background word that is also a class, or one of its synonyms, would be its own rival.
    words = {word.strip().lower() for name in texts.names for word in name.split(",")}
    return tuple(x for x in bench.background_texts or BACKGROUND if x not in words)


def _two_passes(method: str, texts: Texts) -> bool:
    stuff = texts.stuff
    return method == "car" and stuff is not None and bool(stuff.any()) and not stuff.all()


def _things_and_stuff(segmenter: Any, texts: Texts) -> list[Pass]:
    from openseg_jax.methods.car_things_stuff import two_pass

    stuff = np.asarray(texts.stuff)
    sides = [np.flatnonzero(~stuff), np.flatnonzero(stuff)]
    names = [tuple(texts.names[i] for i in side) for side in sides]
    both: Any = two_pass(
        segmenter, *names, thing_ids=sides[0].tolist(), stuff_ids=sides[1].tolist()
    )
    ids = [np.concatenate([[0], side + 1]).astype(np.int32) for side in sides]
    things = Pass(both.things, both.thing_text, names[0], ids[0], 0.5)
    return [Pass(both.stuff, both.stuff_text, names[1], ids[1], 0.5), things]
