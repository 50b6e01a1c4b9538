"""The folder in which the pages' commands are run, and what stands in for large downloads.

A page's commands run in one folder, one after another, as a reader would type them. In it lie

    photo.jpg, masks.png     a scene of the miniature (two things on stuff), and its label map
    configs -> the checkout's, so that `--config configs/x.py` is found
    photos/                  8 pictures with captions.tsv
    cc3m/, cc12m/            shards under the names that the pages give, each with two pictures
    imagenet/val             two classes, two pictures each, and imagenet_names.txt
    data/, DATA/             official archives of VOC (three tiny pictures) and of RefCOCO, prepared
    my_pictures/, mine/      a data set of one's own: images/, labels/, classes.txt
    segclip.bin              a checkpoint of SegCLIP with the published names, an eighth as wide
    monday/, tuesday/        reports of two evaluations

and model names (`ViT-B-16`, `SigLIP-B-16`, ...) are found in a hub cache that holds towers of the
right patch and vocabulary, 32 channels wide and shallow, with random weights. So a command is run
through all of its code with the names that the page gives; what comes out means nothing.
"""

from __future__ import annotations

import dataclasses
import os
import shutil
from pathlib import Path

import numpy as np
from openseg_jax.data.prepare.run import prepare
from PIL import Image

from openseg_jax.cli.main import main
from openseg_jax.miniature.streams import scene
from openseg_jax.models.variants import CLIPConfig, Preprocess, variant
from openseg_jax.text.tokenizer import openai_tokenizer, word_tokenizer
from openseg_jax.weights import registry
from openseg_jax.weights.folder import save_folder
from tests.data import label_archives, test_referring
from tests.docs.blocks import ROOT
from tests.inputs import captioned
from tests.weights import sam_side, test_segclip
from tests.weights.tiny import random_params

SAM = "SAM-B"
MODELS = ("ViT-B-32", "ViT-B-16", "ViT-L-14", "SigLIP-B-16")
SHARDS = {"cc3m": 332, "cc12m": 1243}
SCENE = 3


def stand_in(name: str) -> CLIPConfig:
    """Returns the architecture of a name with every width cut to 32 channels."""
    full = variant(name)
    # SegCLIP groups the patches after the tenth of twelve blocks; nothing asks more of ViT-L/14.
    small = {"width": 32, "heads": 2, "mlp_width": 64}
    vision = dataclasses.replace(full.vision, depth=min(full.vision.depth, 12), **small)
    text = dataclasses.replace(full.text, depth=2, **small)
    return dataclasses.replace(full, embed_dim=32, vision=vision, text=text)


def snapshot(cache: Path, entry: registry.Known) -> Path:
    """Returns where a cache keeps the files of a repository; the folder itself is yet to make."""
    repo = cache / f"models--{entry.repo.replace('/', '--')}"
    folder = repo / "snapshots" / ("0" * 40)
    folder.parent.mkdir(parents=True)
    (repo / "refs").mkdir()
    (repo / "refs" / "main").write_text("0" * 40)
    return folder


def write_hub(cache: Path) -> None:
    """Fills a Hugging Face cache with `SAM`, and with `MODELS` in our own format."""
    words = [f"word{i}" for i in range(60)]
    folder = snapshot(cache, registry.SAMS[SAM])
    folder.mkdir()
    sam_side.write(folder)
    for name in MODELS:
        entry = registry.KNOWN[name]
        folder = snapshot(cache, entry)
        config = stand_in(name)
        if name.startswith("ViT"):
            tokenizer = openai_tokenizer(config.text.context)
        else:  # SigLIP's own vocabulary is a download
            tokenizer = word_tokenizer(words, context=config.text.context)
            small = dataclasses.replace(config.text, vocab_size=len(words) + 4)
            config = dataclasses.replace(config, text=small)
        save_folder(
            folder, config, random_params(config), Preprocess(config.vision.image_size), tokenizer,
            {"name": name, "source": "drawn at random", "licence": "none", "saw": "nothing"},
        )  # fmt: skip
        weights = folder / "model.safetensors"
        if not (folder / f"{entry.stems[0]}.safetensors").exists():
            os.link(weights, folder / f"{entry.stems[0]}.safetensors")


def write_scratch(folder: Path) -> None:
    """Writes all of the module's list but the hub's cache."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "configs").symlink_to(ROOT / "configs")
    drawn = scene("test", SCENE)
    Image.fromarray(drawn.image).save(folder / "photo.jpg", quality=95)
    Image.fromarray(drawn.semantic.astype(np.uint8)).save(folder / "masks.png")
    captioned.write_folder(folder / "photos", captioned.pairs(8))
    for name, count in SHARDS.items():
        first = folder / name / "00000.tar"
        captioned.write_shard(first, captioned.pairs(2))
        for i in range(1, count):
            os.link(first, first.with_name(f"{i:05d}.tar"))
    for name in ("n01", "n02"):
        (folder / "imagenet/val" / name).mkdir(parents=True)
        for i in range(2):
            file = folder / "imagenet/val" / name / f"{i}.png"
            file.write_bytes(captioned.picture(i, 48, 48))
    (folder / "imagenet_names.txt").write_text("zebra\nlemon\n")
    (folder / "data").mkdir()
    (folder / "data/cc12m").symlink_to("../cc12m")  # where clip_finetune looks by itself
    label_archives.voc(folder / "data")
    prepare("voc", folder / "data", workers=1)
    (folder / "DATA").mkdir()
    rows = [{**row, "split": "val"} for row in test_referring.ROWS]
    test_referring.write(folder / "DATA", "refcoco", rows, "unc")
    prepare("refcoco", folder / "DATA", workers=1)
    for name in ("my_pictures", "mine"):
        _own_set(folder / name)
    test_segclip.write(folder / "segclip.bin", test_segclip.scaled())


def _own_set(folder: Path) -> None:
    (folder / "images").mkdir(parents=True)
    (folder / "labels").mkdir()
    (folder / "classes.txt").write_text("background\nzebra\ngrass\n")
    for i in range(2):
        drawn = scene("test", i, 64)
        Image.fromarray(drawn.image).save(folder / "images" / f"{i}.jpg")
        labels = (drawn.semantic % 3).astype(np.uint8)
        Image.fromarray(labels).save(folder / "labels" / f"{i}.png")


def write_reports(folder: Path) -> None:
    """Evaluates two scenes twice, for the page that joins reports of two days."""
    for day, kind in (("monday", "naclip"), ("tuesday", "sclip")):
        argv = ["evaluate", "--benchmark", "miniature", "--method", f"clip_dense/{kind}"]
        assert main([*argv, "--limit", "2", "--out", str(folder / day)]) == 0
        (folder / day / "miniature").rename(folder / day / "voc21")


def copy_scratch(source: Path, target: Path) -> None:
    """Gives a page its own scratch; large files are shared, and nothing writes into them."""
    shutil.copytree(source, target, symlinks=True, copy_function=os.link)
