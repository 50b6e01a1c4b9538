"""Times an export beside its segmenter: `python -m tests.benchmarks.bench_export --method car`.

Without --architecture the miniature is exported, else random weights of that architecture (the
classifier of CaR is the same, so that its parameters lie in the file once). The exported program
and the segmenter's own (the host form of CaR, the compiled one of the others) run in turn on the
same canvas, so that what else the machine does falls on both. CPU seconds are those of all
threads; wall seconds mean little on a machine that does other work.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from openseg_jax import export
from openseg_jax.methods.base import load_segmenter
from openseg_jax.miniature import scene
from openseg_jax.models.variants import Preprocess, variant
from openseg_jax.text.tokenizer import openai_tokenizer
from openseg_jax.weights.loaded import LoadedClip
from openseg_jax.weights.report import Report
from openseg_jax.weights.tree import param_spec, unflatten
from tests.benchmarks.bench_car import clock
from tests.export.exports import live

NAMES = ["tiger", "grass", "sky", "water", "road", "egg", "sand", "lemon"]


def random_weights(name: str) -> LoadedClip:
    """Makes weights of an architecture that know nothing."""
    config, rng = variant(name), np.random.default_rng(0)
    params = unflatten({
        key: rng.normal(0, 0.02, leaf.shape).astype(np.float32)
        for key, leaf in param_spec(config).items()
    })  # fmt: skip
    about = {"name": name, "source": "random numbers", "licence": "Apache-2.0", "saw": "nothing"}
    size = Preprocess(config.vision.image_size)
    return LoadedClip(config, params, size, openai_tokenizer(), about, {}, Report("random"))


def shown(what: str, seconds: tuple[float, float]) -> None:
    """Prints one line of CPU and wall seconds."""
    print(f"{what:<34} {seconds[0]:8.2f} CPU s {seconds[1]:8.2f} s")


def main() -> None:
    """Exports, loads and runs."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--method", default="car")
    parser.add_argument("--architecture", help="random weights of this variant; else the miniature")
    parser.add_argument("--size", type=int, default=None)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--runs", type=int, default=5)
    args = parser.parse_args()
    model: Any = random_weights(args.architecture) if args.architecture else "miniature"
    segmenter = load_segmenter(args.method, model)
    size = None if args.size is None else (args.size, args.size)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "export"
        shown("write", clock(lambda: export.write(segmenter, folder, size=size) and None))
        loaded: list[Any] = []
        shown("open (all files checked)", clock(lambda: loaded.append(export.load(folder))))
        exported = loaded[0]
        for name, about in exported.manifest["files"].items():
            if about["bytes"] > 10_000:
                print(f"  {name:<32} {about['bytes'] / 1e6:8.2f} MB")
        words: list[Any] = []
        shown(
            f"{len(NAMES)} names, compiling", clock(lambda: words.append(exported.classes(NAMES)))
        )
        shown("  again", clock(lambda: exported.classes(NAMES) and None))
        height, width = exported.size
        picture = scene("test", 0, size=max(height, width)).image[:height, :width]
        images = np.stack([picture] * args.batch)
        valid = np.ones(images.shape[:3], bool)
        masks = None
        if "masks" in exported.manifest["inputs"]:
            masks = np.zeros((args.batch, 96, height, width), np.float32)
            masks[:, np.arange(96), np.arange(96) % height] = 1
            segmenter = load_segmenter(
                args.method, model, proposals="masks", proposal_settings={"masks": masks}
            )
        text = segmenter.classes(NAMES)
        forms = {
            "exported": lambda: exported.segment(images, words[0], valid, masks)[0],
            "segmenter": lambda: segmenter.segment(segmenter.params, images, text, valid),
        }
        for name, run in forms.items():
            shown(f"{name}, first call, compiling", clock(run))
        times = [{name: clock(run) for name, run in forms.items()} for _ in range(args.runs)]
        labels, scores, _ = exported.segment(images, words[0], valid, masks)
        wanted, wanted_scores, _ = live(segmenter, images, None, NAMES)
        apart = np.abs(scores - wanted_scores).max()
        print(f"labels agree on {(labels == wanted).mean():.2%} of pixels, scores to {apart:.1e}")
        print(f"then, median of {args.runs}, {args.batch} of {height}x{width}:")
        for name in forms:
            cpu, wall = zip(*(row[name] for row in times), strict=True)
            shown(f"  {name}", (statistics.median(cpu), statistics.median(wall)))


if __name__ == "__main__":
    main()
