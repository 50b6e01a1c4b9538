"""Captions files in every format, and messages that name the line."""

import json
import pickle

import pytest

from openseg_jax.errors import UserError
from openseg_jax.inputs.caption_folder import CaptionFolder, read_captions
from openseg_jax.inputs.packed import PackedStrings
from tests.inputs.captioned import CAPTIONS, pairs, picture, write_folder

WANT = [("a.jpg", "one"), ("a.jpg", "two, three"), ("b/c.jpg", 'a "tall" tree')]


def lines(rows):
    return "".join(json.dumps(row) + "\n" for row in rows)


FORMATS = {
    "captions.tsv": 'a.jpg\tone\na.jpg\ttwo, three\nb/c.jpg\ta "tall" tree\n',
    "headed.tsv": 'title\tfilepath\none\ta.jpg\ntwo, three\ta.jpg\na "tall" tree\tb/c.jpg\n',
    "captions.csv": 'image,caption\na.jpg,one\na.jpg,"two, three"\nb/c.jpg,"a ""tall"" tree"\n',
    "captions.jsonl": lines(
        [{"file_name": "a.jpg", "text": ["one", "two, three"]},
         {"file_name": "b/c.jpg", "text": 'a "tall" tree'}]
    ),
    "list.json": json.dumps([{"image": n, "caption": t} for n, t in WANT]),
    "map.json": json.dumps({"a.jpg": ["one", "two, three"], "b/c.jpg": 'a "tall" tree'}),
    "coco.json": json.dumps({
        "images": [{"id": 7, "file_name": "a.jpg"}, {"id": 9, "file_name": "b/c.jpg"}],
        "annotations": [{"image_id": 7, "caption": "one"}, {"image_id": 7, "caption": "two, three"},
                        {"image_id": 9, "caption": 'a "tall" tree'}],
    }),
    "dataset_coco.json": json.dumps({"images": [
        {"filename": "a.jpg", "split": "train",
         "sentences": [{"raw": "one"}, {"raw": "two, three"}]},
        {"filename": "x.jpg", "split": "test", "sentences": [{"raw": "no"}]},
        {"filename": "c.jpg", "filepath": "b", "split": "train",
         "sentences": [{"raw": 'a "tall" tree'}]},
    ]}),
}  # fmt: skip


@pytest.mark.parametrize("name", FORMATS)
def test_formats(tmp_path, name):
    path = tmp_path / name
    path.write_text("\ufeff" + FORMATS[name])
    assert list(read_captions(path)) == WANT


EMPTY = {
    "captions.tsv": "a.jpg\tone\nb.jpg\n   \nc.jpg\t\n",
    "headed.csv": "image,caption\nb.jpg\na.jpg,one\nc.jpg,\n",
    "captions.jsonl": lines(
        [{"image": "a.jpg", "caption": "one"}, {"image": "b.jpg"},
         {"image": "c.jpg", "caption": []}]
    ),
    "list.json": json.dumps(
        [{"image": "a.jpg", "captions": ["one"]}, {"image": "b.jpg", "captions": None},
         {"image": "c.jpg"}]
    ),
    "map.json": json.dumps({"a.jpg": "one", "b.jpg": [], "c.jpg": None}),
    "coco.json": json.dumps({
        "images": [{"id": i, "file_name": f"{n}.jpg"} for i, n in enumerate("abc")],
        "annotations": [{"image_id": i, "caption": c} for i, c in enumerate(["one", "", None])],
    }),
    "dataset_coco.json": json.dumps({"images": [
        {"filename": "a.jpg", "sentences": [{"raw": "one"}]}, {"filename": "b.jpg"},
        {"filename": "c.jpg", "sentences": []},
    ]}),
}  # fmt: skip


@pytest.mark.parametrize("name", EMPTY)
def test_rows_without_a_caption_are_empty_captions(tmp_path, name):
    """Training counts and skips those; a file of millions must not end for one of them."""
    path = tmp_path / name
    path.write_text(EMPTY[name])
    found = sorted(read_captions(path))
    assert found == [("a.jpg", "one"), ("b.jpg", ""), ("c.jpg", "")]


@pytest.mark.parametrize(
    "name, text, said",
    [
        ("x.tsv", "a.jpg\nb.jpg\tone\n", "line 1.*tab"),
        ("x.jsonl", '{"image": "a"}\n', "line 1.*caption"),
        ("x.json", "{", "expected JSON"),
        ("x.json", "3", "a list or an object"),
        ("x.json", '{"annotations": [{"image_id": 1}], "images": []}', "captions_"),
        ("x.txt", "", "tsv"),
    ],
)
def test_errors_name_the_file(tmp_path, name, text, said):
    path = tmp_path / name
    path.write_text(text)
    with pytest.raises(UserError, match=rf"{name}.*{said}"):
        list(read_captions(path))


def test_folder(tmp_path):
    write_folder(tmp_path / "data", pairs())
    found = CaptionFolder(tmp_path / "data")
    assert len(found) == 6 and found[1] == (picture(1), CAPTIONS[1])
    assert found.name(1).endswith("001.png")
    # what a worker process gets
    assert pickle.loads(pickle.dumps(found))[5] == found[5]


def test_folder_errors(tmp_path):
    with pytest.raises(UserError, match="no such folder"):
        CaptionFolder(tmp_path / "nowhere")
    with pytest.raises(UserError, match=r"input\.captions"):
        CaptionFolder(tmp_path)
    (tmp_path / "captions.tsv").write_text("a.jpg\tone\n")
    with pytest.raises(UserError, match=r"a\.jpg.*input\.path"):
        CaptionFolder(tmp_path)
    (tmp_path / "metadata.csv").write_text("")
    with pytest.raises(UserError, match=r"captions\.tsv, metadata\.csv"):
        CaptionFolder(tmp_path)
    with pytest.raises(UserError, match="got none"):
        CaptionFolder(tmp_path, "metadata.csv")


def test_packed_strings():
    texts = ["a", "", "größe", "b\udce9.jpg"]
    packed = PackedStrings(texts)
    assert [packed[i] for i in range(4)] == texts and len(packed) == 4
    with pytest.raises(IndexError):
        packed[4]
    assert len(PackedStrings([])) == 0
