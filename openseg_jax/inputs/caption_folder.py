"""A folder of pictures with a captions file: TSV, CSV, JSON, JSON lines, or COCO's JSON.

| file | what it holds |
|---|---|
| `.tsv`, `.csv` | picture and caption; a first row of column names may say which columns |
| `.jsonl` | one object a line with a picture and one or several captions |
| `.json` | a list of such objects, or an object {picture: caption or captions} |
| COCO's `captions_*.json` | `images` and `annotations` |
| Karpathy's `dataset_coco.json` | `images` with `sentences`; the split "train" is read |

Each caption is an example: a picture with five captions is five examples. In a file that has shown
where its captions stand, a row without one has an empty caption, which training counts and skips.
"""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from openseg_jax.errors import UserError, expected
from openseg_jax.inputs.packed import PackedStrings

IMAGE_KEYS = ("image", "file_name", "filename", "file", "filepath", "path", "image_path")
CAPTION_KEYS = ("caption", "captions", "text", "texts", "title", "sentence", "sentences", "raw")
SUFFIXES = (".tsv", ".csv", ".json", ".jsonl")
_FOUND_BY_NAME = ("captions", "metadata", "dataset_coco")
_CHECKED = 20  # pictures that are looked for on opening


class CaptionFolder:
    """Pairs of a folder; see `inputs.pairs.Pairs`.

    Args:
        folder: where file names in the captions file start.
        captions: the file, absolute or in `folder`; "" finds captions.* or metadata.* there.

    Raises:
        UserError: for a file that is missing, broken or empty, or whose pictures are not there.
    """

    def __init__(self, folder: str | os.PathLike[str], captions: str = "") -> None:
        self.folder = Path(folder)
        if not self.folder.is_dir():
            raise UserError(f"{folder}: no such folder; set input.path to the pictures' folder")
        file = self.folder / captions if captions else _find(self.folder)
        names, texts = [], []
        for name, text in read_captions(file):
            names.append(name)
            texts.append(text)
        if not names:
            raise expected(str(file), "pictures with captions", "none", "give another file")
        self._names, self._texts = PackedStrings(names), PackedStrings(texts)
        looked = [self._path(i) for i in range(min(_CHECKED, len(self)))]
        if not any(path.is_file() for path in looked):
            raise UserError(
                f"{file}: expected pictures in {self.folder}, got none of the first {len(looked)} "
                f"(no {looked[0]}); set input.path to the folder that the names start from"
            )

    def __len__(self) -> int:
        return len(self._names)

    def __getitem__(self, index: int) -> tuple[bytes, str]:
        return self._path(index).read_bytes(), self._texts[index]

    def name(self, index: int) -> str:
        """Returns the picture's path."""
        return str(self._path(index))

    def _path(self, index: int) -> Path:
        return self.folder / self._names[index]


def read_captions(file: str | os.PathLike[str]) -> Iterator[tuple[str, str]]:
    """Reads (picture, caption) pairs from a captions file in any of the formats above.

    Raises:
        UserError: naming the file, and the line where there is one.
    """
    path = Path(file)
    if path.suffix.lower() not in SUFFIXES:
        raise expected(str(path), " or ".join(SUFFIXES), path.suffix or "none", "convert it")
    try:
        if path.suffix.lower() in (".tsv", ".csv"):
            yield from _read_table(path)
        elif path.suffix.lower() == ".jsonl":
            yield from _read_lines(path)
        else:
            yield from _read_json(path, json.loads(path.read_text(encoding="utf-8-sig")))
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not a UTF-8 text file; save the captions as UTF-8") from error
    except json.JSONDecodeError as error:
        raise UserError(f"{path}: expected JSON, got {error}; correct or download it") from error
    except OSError as error:
        reason = error.strerror or str(error)
        raise UserError(f"{path}: cannot read the captions ({reason}); check the path") from error


def _find(folder: Path) -> Path:
    found = sorted(
        path
        for path in folder.iterdir()
        if path.suffix.lower() in SUFFIXES and path.stem.lower().startswith(_FOUND_BY_NAME)
    )
    if len(found) != 1:
        got = ", ".join(path.name for path in found) or "none"
        raise expected(
            str(folder), "one captions file (captions.tsv, metadata.jsonl, …)", got,
            "name it with input.captions",
        )  # fmt: skip
    return found[0]


def _read_table(path: Path) -> Iterator[tuple[str, str]]:
    tabs = path.suffix.lower() == ".tsv"
    with path.open(encoding="utf-8-sig", newline="") as file:
        # In TSV files a quote is a quote: captions hold them, and nobody doubles them there.
        rows = csv.reader(
            file,
            delimiter="\t" if tabs else ",",
            quoting=csv.QUOTE_NONE if tabs else csv.QUOTE_MINIMAL,
        )
        columns, told = (0, 1), False
        for number, row in enumerate(rows, start=1):
            if not any(cell.strip() for cell in row):
                continue
            if number == 1:
                heads = [cell.strip().lower() for cell in row]
                image, caption = _first(heads, IMAGE_KEYS), _first(heads, CAPTION_KEYS)
                if image is not None and caption is not None:
                    columns = (heads.index(image), heads.index(caption))
                    told = True
                    continue
            if len(row) <= (columns[0] if told else max(columns)):
                raise expected(
                    f"{path}: line {rows.line_num}", "a picture and a caption",
                    f"{len(row)} column{'s' * (len(row) != 1)}", "separate them with "
                    + ("a tab" if tabs else "a comma"),
                )  # fmt: skip
            told = True
            yield row[columns[0]].strip(), row[columns[1]] if len(row) > columns[1] else ""


def _read_lines(path: Path) -> Iterator[tuple[str, str]]:
    with path.open(encoding="utf-8-sig") as file:
        told = False
        for number, line in enumerate(file, start=1):
            if line.strip():
                yield from _read_row(f"{path}: line {number}", json.loads(line), told)
                told = True


def _read_json(path: Path, data: Any) -> Iterator[tuple[str, str]]:
    if isinstance(data, dict) and isinstance(data.get("annotations"), list):
        files = {row["id"]: row["file_name"] for row in data.get("images", [])}
        for row in data["annotations"]:
            if row.get("image_id") not in files or "caption" not in row:
                raise expected(
                    str(path), "annotations with a known image_id and a caption",
                    json.dumps(row)[:80], "take COCO's captions_*.json, not its instances",
                )  # fmt: skip
            yield files[row["image_id"]], str(row["caption"] or "")
    elif isinstance(data, dict) and isinstance(data.get("images"), list):
        told = False
        for number, row in enumerate(data["images"]):
            if row.get("split", "train") == "train":
                inside = {
                    **row,
                    "file_name": os.path.join(row.get("filepath", ""), row["filename"]),
                }
                yield from _read_row(f"{path}: image {number}", inside, told)
                told = True
    elif isinstance(data, dict):
        for name, captions in data.items():
            yield from _read_row(f"{path}: {name}", {"image": name, "captions": captions}, True)
    elif isinstance(data, list):
        for number, row in enumerate(data):
            yield from _read_row(f"{path}: row {number}", row, number > 0)
    else:
        raise expected(str(path), "a list or an object", type(data).__name__, "see the table")


def _read_row(where: str, row: Any, told: bool) -> Iterator[tuple[str, str]]:
    """Reads an object; `told` where one before it had a caption, so that this one may lack it."""
    image = _first(row, IMAGE_KEYS) if isinstance(row, dict) else None
    caption = _first(row, CAPTION_KEYS) if isinstance(row, dict) else None
    if image is None or (caption is None and not told):
        raise expected(
            where, f"keys such as {IMAGE_KEYS[0]!r} and {CAPTION_KEYS[0]!r}",
            json.dumps(row)[:80], "name them so",
        )  # fmt: skip
    found = None if caption is None else row[caption]
    for text in found or [None] if isinstance(found, list) else [found]:
        if isinstance(text, dict):
            text = text.get("raw", text.get("caption", ""))
        yield str(row[image]), "" if text is None else str(text)


def _first(names: Any, wanted: tuple[str, ...]) -> str | None:
    return next((name for name in wanted if name in names), None)
