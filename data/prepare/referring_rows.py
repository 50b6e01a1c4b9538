"""Objects and expressions of the referring sets, from their pickles and COCO's instances."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from openseg_jax.data.prepare.coco_annotations import whole
from openseg_jax.data.prepare.plain_pickle import read_plain_pickle

from openseg_jax.errors import UserError, expected

__all__ = ["Ref", "read_refs"]


@dataclasses.dataclass(frozen=True)
class Ref:
    """An object that people referred to.

    Attributes:
        number: of the reference, unique in its file.
        split: "train", "val", "testA", …
        picture: id of the picture in COCO.
        annotation: id of the instance.
        texts: its expressions as typed, runs of blanks made one.
    """

    number: int
    split: str
    picture: int
    annotation: int
    texts: tuple[str, ...]


def read_refs(path: Path) -> list[Ref]:
    """Reads `refs(unc).p` and its kin.

    Raises:
        UserError: for a pickle that is damaged, of something else, or asks for more than data.
    """
    content = read_plain_pickle(path)
    refs: list[Ref] = []
    try:
        if not isinstance(content, list | tuple):
            raise KeyError("a list of references")
        for row in content:
            number, picture, annotation = (whole(row, k) for k in ("ref_id", "image_id", "ann_id"))
            if not isinstance(row["split"], str) or not row["split"].isidentifier():
                raise KeyError("split")
            texts = tuple(_text(sentence) for sentence in row["sentences"])
            if not texts:
                raise KeyError("sentences")
            refs.append(Ref(number, row["split"], picture, annotation, texts))
    except (KeyError, TypeError, AttributeError) as error:
        raise expected(
            str(path), "references: ref_id, ann_id, image_id, split and sentences of each",
            f"reference {len(refs)} without {error}", "name a refs file, or get it again",
        ) from error  # fmt: skip
    if not refs:
        raise UserError(f"{path}: holds no reference; get the file again")
    if len({ref.number for ref in refs}) < len(refs):
        raise UserError(f"{path}: holds a ref_id twice; get the file again")
    return refs


def _text(sentence: Mapping[str, Any]) -> str:
    # Methods read what was typed ("raw"); some copies of the sets kept only the cleaned text.
    text = sentence.get("raw") or sentence["sent"]
    if not isinstance(text, str):
        raise KeyError("sent")
    return " ".join(text.split())
