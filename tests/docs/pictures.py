"""Makes the tutorial's pictures by its own commands: `python -m tests.docs.pictures`."""

from __future__ import annotations

import contextlib
import os
import tempfile
from pathlib import Path

from PIL import Image

from openseg_jax.cli.main import main
from tests.docs.blocks import ROOT, all_blocks, commands_of
from tests.docs.running import run_python

PAGE = "docs/tutorial.md"
# Picture -> file of the page's commands, and how often its pixels are enlarged.
PICTURES = {
    "tutorial_scene.png": ("scene.png", 3),
    "tutorial_car.png": ("first/scene_overlay.png", 1),
    "tutorial_maft.png": ("second/scene_overlay.png", 1),
}


def make(folder: Path) -> None:
    """Runs what the page says about its scene, and writes `PICTURES` into a folder."""
    with tempfile.TemporaryDirectory() as scratch, contextlib.chdir(scratch):
        for block in all_blocks("bash", "python"):
            if block.page != PAGE:
                continue
            if block.language == "python" and 'scene("test"' in block.text:
                run_python(block.text)
            elif block.text.startswith("openseg segment scene.png"):
                assert main(commands_of(block.text)[0].words[1:]) == 0
        for name, (file, times) in PICTURES.items():
            with Image.open(file) as image:
                rgb = image.convert("RGB")
                size = (times * rgb.width, times * rgb.height)
                sheet = rgb.resize(size, Image.Resampling.NEAREST)
                sheet.quantize(128, dither=Image.Dither.NONE).save(folder / name, optimize=True)


if __name__ == "__main__":
    target = ROOT / "docs/images"
    make(target)
    print(*(f"{file}: {os.path.getsize(file)} bytes" for file in target.glob("tutorial_*.png")))
