"""Segment pictures by free text: label PNG, overlay with legend, JSON with masks and scores.

Files: OUT/NAME.png (pixel i is label i, 0 background, class table inside), OUT/NAME_overlay.png and
OUT/NAME.json. NAME is the picture's name without its ending; where two would collide the folder's
name comes before it, then a number after it. Results of an earlier call are replaced, pictures
that were given never are. All pictures are checked before the first is segmented.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.markup import escape
from rich.table import Table

from openseg_jax import api
from openseg_jax.cli.shared import (
    add_label_arguments,
    background_of,
    labels_of,
    output_console,
    progress_bar,
)
from openseg_jax.errors import UserError
from openseg_jax.inputs import images
from openseg_jax.inputs.labels import merge_duplicates
from openseg_jax.methods.settings import preset

_BATCH = 8
_TABLE_ROWS = 40
# Flags that not all methods have.
_ONLY = {
    "classifier_model": ("car",), "preset": ("car", "clip_dense", "segclip"), "sam": ("car",),
    "proposals": ("maft",), "variant": ("clip_dense",), "refine": ("car", "clip_dense"),
}  # fmt: skip
# Decoded pictures are kept between the check and the work while they fit in so many pixels.
_KEEP_PIXELS = 60_000_000


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the arguments of `openseg segment`."""
    parser.add_argument("images", nargs="+", metavar="IMAGE", help="any picture Pillow reads")
    what = parser.add_argument_group("what to look for")
    add_label_arguments(
        what, background="texts that may take pixels unreported; 'none', or the method's 'default'"
    )
    how = parser.add_argument_group("how")
    how.add_argument(
        "--method", default="car", help="car, clip_dense, maft or segclip (%(default)s)"
    )
    how.add_argument(
        "--model", default="miniature", help="name or folder; see openseg models (%(default)s)"
    )
    how.add_argument(
        "--classifier-model", metavar="MODEL", help="car: other weights for its classifier"
    )
    how.add_argument(
        "--variant",
        metavar="NAME",
        help="clip_dense: the last block: plain, maskclip, sclip, clearclip or naclip",
    )
    how.add_argument(
        "--preset",
        help="car, clip_dense, segclip: a data set's published settings: voc, voc21, coco, …",
    )
    how.add_argument(
        "--refine",
        choices=("crf", "pamr", "none"),
        help="car: how pixels are decided: dense CRF (the default), the lighter PAMR, or not; "
        "clip_dense: pamr or none (the default)",
    )
    how.add_argument(
        "--sam",
        metavar="NAME",
        help="car: replace masks by those of a SAM that agree: SAM-B, SAM-L, SAM-H or a folder",
    )
    how.add_argument(
        "--proposals",
        metavar="NAME",
        help="maft: where masks come from: regions, generator, or a Mask2Former's folder",
    )
    how.add_argument(
        "--parity", choices=("reference",), help="the published behaviour, its bugs included"
    )
    how.add_argument(
        "--max-side",
        type=int,
        default=api.MAX_SIDE,
        metavar="N",
        help="segment at most at this long side; masks keep the picture's size (%(default)s)",
    )
    out = parser.add_argument_group("output")
    out.add_argument("-o", "--out", default="openseg_out", metavar="DIR", help="(%(default)s)")
    out.add_argument("--json", action="store_true", help="print the JSON instead of a table")


def run(args: argparse.Namespace) -> int:
    """Runs `openseg segment`."""
    names, merged = merge_duplicates(labels_of(args))
    jobs = plan_outputs(args.images, Path(args.out))
    kept = _check(list(jobs))
    segmenter = api.load(args.method, args.model, api.frozen_settings(settings_of(args)))
    background = background_of(args)
    noted: set[str] = set()
    printed = []
    with progress_bar() as bar:
        task = bar.add_task("segmenting", total=len(jobs))
        done = 0
        for paths in _batches(kept):
            batch = [_take(kept, path) for path in paths]

            def tell(share: float, before: int = done, count: int = len(paths)) -> None:
                bar.update(task, completed=before + share * count)

            results = api.segment_batch(
                segmenter, batch, names, background=background, max_side=args.max_side,
                merged=merged, progress=tell,
            )  # fmt: skip
            done += len(paths)
            bar.update(task, completed=done)
            for path, result in zip(paths, results, strict=True):
                for note in result.notes:
                    if note not in noted:
                        noted.add(note)
                        print(f"openseg: note: {note}", file=sys.stderr)
                written = result.save(jobs[path].parent, jobs[path].name)
                if args.json:
                    printed.append({"image": str(path), **result.to_json()})
                else:
                    print_table(path, result, written)
    if args.json:
        json.dump(printed, sys.stdout, ensure_ascii=False, indent=1)
        print()
    return 0


def settings_of(args: argparse.Namespace) -> dict[str, Any]:
    """Collects the method's settings from the arguments; a flag wins over the preset."""
    settings: dict[str, Any] = {}
    for flag, methods in _ONLY.items():
        if getattr(args, flag) and args.method not in methods:
            raise UserError(
                f"--{flag.replace('_', '-')}: belongs to --method {' or '.join(methods)}, got "
                f"--method {args.method}; leave it out"
            )
    if args.proposals:
        settings["proposals"] = args.proposals
        if Path(args.proposals).is_dir():
            settings["proposals"] = "mask2former"
            settings["proposal_settings"] = (("folder", args.proposals),)
    if args.preset:
        settings |= preset(args.method, args.preset)
    if args.classifier_model:
        settings["classifier"] = args.classifier_model
    if args.variant:
        settings["variant"] = args.variant
    for name in ("refine", "sam"):
        if getattr(args, name):
            settings[name] = getattr(args, name)
    if args.parity:
        settings["parity"] = args.parity
    return settings


def plan_outputs(given: Sequence[str], out: Path) -> dict[Path, Path]:
    """Chooses the output stem of every picture.

    Args:
        given: pictures as typed; one that comes twice is segmented once.
        out: folder of all outputs.
    Returns:
        picture -> folder and stem of its files, in the order given.
    Raises:
        UserError: when an output would replace one of the pictures.
    """
    pictures = {path.resolve(): path for path in reversed([Path(name) for name in given])}
    pictures = dict(reversed(pictures.items()))
    stems = [path.stem for path in pictures.values()]
    taken: set[str] = set()
    jobs: dict[Path, Path] = {}
    for full, path in pictures.items():
        stem = path.stem or "picture"
        if stems.count(stem) > 1:
            stem = f"{full.parent.name}_{stem}"
        free, number = stem, 1
        while taken & {free + end for end in api.OUTPUTS}:
            number += 1
            free = f"{stem}_{number}"
        taken |= {free + end for end in api.OUTPUTS}
        jobs[path] = out / free
    for stem in jobs.values():
        for end in api.OUTPUTS:
            target = stem.with_name(stem.name + end)
            if target.resolve() in pictures:
                raise UserError(
                    f"{target}: would be replaced by a result; choose another folder with --out"
                )
    return jobs


def print_table(path: Path, result: api.Segmentation, written: Sequence[Path]) -> None:
    """Prints what was found in one picture."""
    table = Table(title=escape(str(path)), title_justify="left")
    for name, side in (("label", "left"), ("kept", "left"), ("score", "right"), ("area", "right")):
        table.add_column(name, justify=side)  # type: ignore[arg-type]
    areas, kept = result.areas, set(result.kept)
    order = sorted(result.names, key=lambda name: (name not in kept, -areas[name]))
    rows = order[: max(_TABLE_ROWS, len(kept))]
    for name in rows:
        text = name if len(name) <= 60 else name[:59] + "…"
        if name in kept:
            table.add_row(
                escape(text), "yes", f"{result.scores[name]:.2f}", f"{100 * areas[name]:.1f} %"
            )
        else:
            table.add_row(escape(text), "no", "", "")
    if len(rows) < len(order):
        table.add_row(f"… and {len(order) - len(rows)} more, dropped", "no", "", "")
    rest = 1 - sum(areas.values())
    table.add_section()
    table.add_row("background", "", "", f"{100 * rest:.1f} %")
    output_console().print(table)
    print("wrote " + ", ".join(str(file) for file in written))


def _check(paths: Sequence[Path]) -> dict[Path, np.ndarray | tuple[int, int]]:
    """Reads every picture once, so that a bad one stops the run before anything is written."""
    kept: dict[Path, np.ndarray | tuple[int, int]] = {}
    room = _KEEP_PIXELS
    for path in paths:
        image = images.read_image(path)
        height, width = image.shape[:2]
        room -= height * width
        kept[path] = image if room >= 0 else (height, width)
    return kept


def _take(kept: dict[Path, np.ndarray | tuple[int, int]], path: Path) -> np.ndarray:
    found = kept[path]
    kept[path] = tuple(found.shape[:2]) if isinstance(found, np.ndarray) else found
    return found if isinstance(found, np.ndarray) else images.read_image(path)


def _batches(kept: dict[Path, np.ndarray | tuple[int, int]]) -> Iterator[list[Path]]:
    """Groups pictures of one size: they share a compiled program and a call."""
    groups: dict[tuple[int, ...], list[Path]] = {}
    for path, found in kept.items():
        size = found.shape[:2] if isinstance(found, np.ndarray) else found
        groups.setdefault(tuple(size), []).append(path)
    for (height, width), group in groups.items():
        most = max(1, min(_BATCH, _KEEP_PIXELS // (8 * height * width)))
        yield from (group[i : i + most] for i in range(0, len(group), most))
