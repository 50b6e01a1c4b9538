"""Small captioned data in each of the formats that training reads."""

from __future__ import annotations

import io
import json
import tarfile

import numpy as np
from PIL import Image

CAPTIONS = ("a zebra on grass", "two lemons", "the sea", "a bee and a cactus", "snow", "a road")


def picture(number: int, height: int = 24, width: int = 40) -> bytes:
    """A PNG that differs from number to number."""
    rng = np.random.default_rng(number)
    blocks = rng.integers(0, 256, (height // 8, width // 8, 3)).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(blocks.repeat(8, 0).repeat(8, 1)).save(file, "PNG")
    return file.getvalue()


BROKEN = picture(0)[:60]


def pairs(count: int = 6, broken=(), empty=()) -> list[tuple[bytes, str]]:
    """Pictures with captions; those numbered in `broken` and `empty` are of no use."""
    return [
        (BROKEN if i in broken else picture(i), " " if i in empty else CAPTIONS[i % len(CAPTIONS)])
        for i in range(count)
    ]


def write_folder(folder, found) -> None:
    """A folder with captions.tsv."""
    folder.mkdir(parents=True, exist_ok=True)
    for i, (data, _) in enumerate(found):
        (folder / f"{i:03d}.png").write_bytes(data)
    lines = [f"{i:03d}.png\t{text}\n" for i, (_, text) in enumerate(found)]
    (folder / "captions.tsv").write_text("".join(lines))


def write_shard(path, found, *, first: int = 0, text: bool = True) -> None:
    """A shard as img2dataset writes it; without `text`, captions are in the JSON alone."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for i, (data, caption) in enumerate(found, start=first):
            parts = {"png": data, "json": json.dumps({"caption": caption, "key": str(i)}).encode()}
            if text:
                parts["txt"] = caption.encode()
            for suffix, content in parts.items():
                member = tarfile.TarInfo(f"{i:05d}.{suffix}")
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
    path.with_suffix(".parquet").write_bytes(b"not read")
    path.with_name(f"{path.stem}_stats.json").write_text("{}")


class FakeTfds:
    """A stand-in for the module `tensorflow_datasets` that serves coco_captions-like rows."""

    class decode:
        @staticmethod
        def SkipDecoding():
            return "skip"

    def __init__(self, found, error=None):
        self.found, self.error = found, error

    def builder(self, name, data_dir=None):
        self.asked = (name, data_dir)
        return self

    def as_data_source(self, split, decoders=None):
        if self.error is not None:
            raise self.error
        assert decoders == {"image": "skip"}
        texts = [np.array([c.encode(), c.upper().encode()], object) for _, c in self.found]
        return [
            {"image": data, "captions": {"id": np.arange(2), "text": text}}
            for (data, _), text in zip(self.found, texts, strict=True)
        ]
