"""TFDS's own coco_captions, built from a small COCO in the official layout and read by ours."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

from openseg_jax.inputs.images import decode_image
from openseg_jax.inputs.tfds_captions import open_tfds
from openseg_jax.inputs.vocabularies import vocabulary
from tests.inputs.captioned import pairs

MISSING = any(
    importlib.util.find_spec(name) is None
    for name in ("tensorflow_datasets", "importlib_resources", "tensorflow")
)

TEXTS = {"train": ["one", "two, three"], "val": ["four"], "test": ["five"], "restval": ["six"]}


def write_coco(root: Path) -> dict[str, Path]:
    """Writes pictures, instances and Karpathy's splits; returns what TFDS calls each folder."""
    files = {"train": "train2014", "val": "val2014", "test": "val2014", "restval": "val2014"}
    images: dict[str, list] = {"train2014": [], "val2014": []}
    split_rows = []
    for index, (split, part) in enumerate(files.items()):
        name = f"COCO_{part}_{index:012d}.jpg"
        path = root / "pictures" / part / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(pairs(4)[index][0])
        images[part].append({"id": index, "file_name": name, "height": 8, "width": 8})
        sentences = [{"sentid": i, "raw": text} for i, text in enumerate(TEXTS[split])]
        split_rows.append({"split": split, "filename": name, "sentences": sentences})
    (root / "annotations").mkdir()
    words = vocabulary("coco_object81")
    assert words.raw is not None
    categories = [
        {"id": raw, "name": name, "supercategory": "thing"}
        for raw, name in zip(words.raw[1:], words.foreground, strict=True)
    ]
    for part, rows in images.items():
        boxes = [
            {"id": r["id"], "image_id": r["id"], "category_id": 1, "iscrowd": 0, "area": 4.0,
             "bbox": [1, 1, 2, 2]} for r in rows
        ]  # fmt: skip
        content = {"images": rows, "annotations": boxes, "categories": categories}
        (root / "annotations" / f"instances_{part}.json").write_text(json.dumps(content))
    (root / "dataset_coco.json").write_text(json.dumps({"images": split_rows}))
    kinds = ("train", "validation", "test", "test2015")
    return (
        {f"{kind}_images": root / "pictures" for kind in kinds}
        | {f"{kind}_annotations": root for kind in kinds}
        | {"karpathy_and_li_splits": root}
    )


@pytest.mark.slow
@pytest.mark.skipif(
    MISSING,
    reason="TFDS's builder of coco_captions needs TensorFlow; run: pip install "
    "'openseg_jax[test,test-builders]' && pytest -m slow tests/inputs/test_tfds_build.py",
)
def test_coco_captions_of_tfds(tmp_path, monkeypatch):
    import tensorflow_datasets as tfds

    folders = write_coco(tmp_path)
    monkeypatch.setattr(
        tfds.download.DownloadManager, "download_and_extract", lambda self, urls: folders
    )
    builder = tfds.builder("coco_captions", data_dir=tmp_path / "tfds", file_format="array_record")
    builder.download_and_prepare(
        download_config=tfds.download.DownloadConfig(try_download_gcs=False)
    )
    found = open_tfds("coco_captions", folder=str(tmp_path / "tfds"), per_image=2)
    assert [found[i][1] for i in range(len(found))] == TEXTS["train"]
    data = found[0][0]
    assert data == pairs(4)[0][0] and decode_image(data, found.name(0)).ndim == 3
    held = open_tfds("coco_captions", split="restval", folder=str(tmp_path / "tfds"), per_image=1)
    assert [held[i][1] for i in range(len(held))] == TEXTS["restval"]
    # Who reads needs no TensorFlow.
    code = (
        "import sys\n"
        "from openseg_jax.inputs.tfds_captions import open_tfds\n"
        f"print(open_tfds('coco_captions', folder={str(tmp_path / 'tfds')!r})[0][1])\n"
        "assert 'tensorflow' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == TEXTS["train"][0]
