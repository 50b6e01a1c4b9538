"""What an evaluation spends its time on: `python tests/benchmarks/bench_evaluate.py`.

Two questions. Which share does counting take with 150 classes on photograph-sized pictures, beside
the cheapest real method (dense CLIP, the published sizes, random weights)? And which share of the
loop are the devices busy? Prints one JSON line for each; the figures of a busy machine mean little.
"""

from __future__ import annotations

import argparse
import json
import time
import types
from typing import Any

import jax
import numpy as np

from openseg_jax.eval.benchmarks import Benchmark, Texts
from openseg_jax.eval.confusion import confusion_matrix
from openseg_jax.eval.evaluate import Evaluator, Options
from openseg_jax.inputs.augment import IGNORE

CLASSES = 150


class Noise:
    """Pictures and labels of chance: nothing is read, so the loop alone is measured."""

    name, background = "noise", False

    def __init__(self, count: int, size: tuple[int, int]) -> None:
        self.facts: dict[str, Any] = {}
        self.classes = tuple(f"class {i}" for i in range(CLASSES))
        self.items = [types.SimpleNamespace(name=str(i), size=size) for i in range(count)]
        rng = np.random.default_rng(0)
        self.image = rng.integers(0, 256, (*size, 3), np.uint8)
        # Segments rather than noise, as label maps have.
        coarse = rng.integers(0, CLASSES, (size[0] // 50 + 1, size[1] // 50 + 1), np.int32)
        self.labels = np.kron(coarse, np.ones((50, 50), np.int32))[: size[0], : size[1]]
        self.labels[:5] = IGNORE

    def __len__(self) -> int:
        return len(self.items)

    def read(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        return self.image, self.labels


def counting(size: tuple[int, int], classes: int, repeats: int = 20) -> float:
    """Seconds that one picture's matrix takes."""
    source = Noise(1, size)
    truth = np.where(source.labels == IGNORE, IGNORE, source.labels % classes)
    predicted = np.roll(np.maximum(truth, 0), 3, 1).astype(np.uint16)
    # Let the allocator keep large blocks, as it does in a long run, instead of asking for pages.
    np.ones(2**21)
    best = float("inf")
    for _ in range(repeats):
        begin = time.perf_counter()
        confusion_matrix(truth, predicted, classes, ignore=IGNORE)
        best = min(best, time.perf_counter() - begin)
    return best


def loop(pictures: int, size: tuple[int, int], batch: int, model: Any) -> dict[str, float]:
    """Runs the loop with dense CLIP; shares of the loop without compiling."""
    from openseg_jax.methods.base import load_segmenter

    source = Noise(pictures, size)
    bench = Benchmark("noise", "noise", classes=source.classes)
    segmenter = load_segmenter("clip_dense", model, variant="maskclip", templates=("a {}",))
    one = Evaluator(
        segmenter, bench, source, Texts("noise", source.classes), method="clip_dense",
        model="random", options=Options(batch=batch),
    )  # fmt: skip
    one.run(limit=batch * len(jax.local_devices()))  # compiles
    one.labeller.compile_seconds = 0.0
    seconds = one.run().timings
    total = seconds["loop"] - seconds["compile"]
    return {
        "pictures_per_second": pictures / total,
        **{f"{part}_share": seconds[part] / total for part in ("device", "metrics", "input")},
        "metrics_ms_per_picture": 1000 * seconds["metrics"] / pictures,
    }


def random_clip(name: str) -> Any:
    """A CLIP of an architecture's size with random weights and a tokenizer of single letters."""
    from openseg_jax.miniature.captions import vocabulary
    from openseg_jax.models.variants import Preprocess, variant
    from openseg_jax.text.tokenizer import word_tokenizer
    from openseg_jax.weights.loaded import LoadedClip
    from openseg_jax.weights.report import Report
    from openseg_jax.weights.tree import param_spec, unflatten

    config = variant(name)
    rng = np.random.default_rng(0)
    params = {
        key: rng.normal(0, 0.02, leaf.shape).astype(np.float32)
        for key, leaf in param_spec(config).items()
    }
    words = ["a", "class", *map(str, range(CLASSES)), *vocabulary()]
    tokenizer = word_tokenizer(list(dict.fromkeys(words)), context=config.text.context)
    facts = {"name": name, "source": "random", "licence": "none", "saw": "nothing"}
    side = Preprocess(config.vision.image_size)
    return LoadedClip(config, unflatten(params), side, tokenizer, facts, {}, Report(name))


def main() -> None:
    """Prints the numbers."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pictures", type=int, default=16)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--model", default="ViT-B-16")
    parser.add_argument("--size", type=int, nargs=2, default=(375, 500))
    args = parser.parse_args()
    size = (args.size[0], args.size[1])
    for classes in (21, 150, 847):
        ms = 1000 * counting(size, classes)
        print(json.dumps({"counting": {"classes": classes, "size": size, "ms": round(ms, 3)}}))
    found = loop(args.pictures, size, args.batch, random_clip(args.model))
    device = jax.local_devices()[0].device_kind
    said = {key: round(value, 4) for key, value in found.items()}
    print(json.dumps({"loop": said, "device": device, "model": args.model}))


if __name__ == "__main__":
    main()
