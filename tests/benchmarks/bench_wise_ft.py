"""Fine-tunes the miniature's CLIP on grey pictures and walks the line: WiSE-FT, measured.

`python -m tests.benchmarks.bench_wise_ft FOLDER` draws 2,000 captioned pictures of world 1 without
colour, fine-tunes the shipped weights on them, and prints what each alpha knows: of grey crops of
the test stream, and of the coloured ones that the weights came from. Two and a half minutes of one
core. Numbers are about that world only.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
from PIL import Image

from openseg_jax.cli.main import main as openseg
from openseg_jax.miniature.streams import crop, scene, training_example
from openseg_jax.miniature.world import THINGS

WORLD, PICTURES, SCENES = 1, 2000, 400


def grey(image: np.ndarray) -> Image.Image:
    """Takes the colour out of a picture."""
    return Image.fromarray(image).convert("L").convert("RGB")


def draw(folder: Path) -> None:
    """Writes captioned grey pictures to learn from, and grey crops by class to ask about."""
    (folder / "train").mkdir(parents=True, exist_ok=True)
    lines = []
    for index in range(PICTURES):
        image, caption = training_example(index, seed=WORLD)
        grey(image).save(folder / "train" / f"{index}.png")
        lines.append(f"{index}.png\t{caption}\n")
    (folder / "train" / "captions.tsv").write_text("".join(lines), encoding="utf-8")
    for name in THINGS:
        (folder / "test" / name).mkdir(parents=True, exist_ok=True)
    for index in range(SCENES):
        found = scene("test", index, seed=WORLD)
        for number, thing in enumerate(found.things):
            path = folder / "test" / THINGS[thing.thing - 1] / f"{index}_{number}.png"
            grey(crop(found, number)).save(path)


def run(folder: Path, steps: int, rate: float) -> int:
    """Draws, trains, interpolates and prints; returns the exit code."""
    draw(folder)
    values = {
        "init": "miniature", "input.name": "folder", "input.path": str(folder / "train"),
        "input.shuffle": True, "steps": steps, "batch_size": 64, "checkpoint_every": steps,
        "optim.learning_rate": rate, "optim.warmup": 10, "optim.layer_decay": 0.8,
        "average.decay": 0.95, "evaluate.every": steps // 2, "evaluate.limit": 480,
        "evaluate.path": str(folder / "test"), "evaluate.templates": "car15",
    }  # fmt: skip
    settings = [word for key, value in values.items() for word in ("--set", f"{key}={value}")]
    train = ["train", "--config", "miniature_clip", "--workdir", str(folder / "run"), *settings]
    code = openseg([*train, "--export", str(folder / "tuned")])
    rows = [json.loads(line) for line in (folder / "run" / "metrics.jsonl").open()]
    for row in rows:
        if "zero_shot/top1" in row:
            print({key: value for key, value in row.items() if "/top1" in key or key == "step"})
    asked = ["--evaluate", str(folder / "test"), "--evaluate", f"miniature:test:{WORLD}"]
    line = ["interpolate", "miniature", str(folder / "tuned"), "--alpha", "0,0.25,0.5,0.75,1"]
    return code or openseg([*line, *asked, "--templates", "car15"])


def main() -> int:
    """Runs the measurement."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="for pictures and weights")
    parser.add_argument("--steps", type=int, default=120, help="of the fine-tuning (120)")
    parser.add_argument("--rate", type=float, default=3e-4, help="its learning rate (3e-4)")
    args = parser.parse_args()
    return run(args.folder, args.steps, args.rate)


if __name__ == "__main__":
    raise SystemExit(main())
