"""The stage-2 golden as a task and a batch."""

from __future__ import annotations

import dataclasses
import functools
from pathlib import Path
from typing import Any

import jax
import numpy as np

from openseg_jax.models.variants import Preprocess
from openseg_jax.tasks.maft import MaftTask, upsampled
from openseg_jax.types import Params
from openseg_jax.weights.openai import vision_leaves
from openseg_jax.weights.tree import export
from tests import golden
from tests.maft import towers

TEACHER = "clip_adapter.clip_model.visual."


@dataclasses.dataclass(frozen=True)
class Case:
    """A golden's task, parameters and batch."""

    task: MaftTask
    params: Params
    frozen: Params
    batch: dict[str, Any]
    arrays: dict[str, np.ndarray]
    about: dict[str, Any]


@functools.cache
def case(path: Path) -> Case:
    """Loads the case in `path`."""
    arrays, about = golden.load(path)
    c = about["config"]
    weights = {k[2:]: v for k, v in arrays.items() if k.startswith("w/")}
    student = {f"visual.{k[7:]}": v for k, v in weights.items() if k.startswith("IPCLIP.")}
    # Tensors of the teacher that are not listed are the student's.
    taught = {f"visual.{k[len(TEACHER) :]}": v for k, v in weights.items() if TEACHER in k}
    visual, params = towers.visual(student, c)
    _, teacher = towers.visual(student | taught, c)
    size = (c["clip_input"], c["clip_input"])
    text = arrays["in/text_features_with_nonobject"][: c["C"]]
    task = MaftTask(
        visual.clone(scan=False), Preprocess(c["pretrain_res"]), {"visual": teacher}, text,
        c["start_layers"], size, c["temperature"], c["dis_weight"],
    )  # fmt: skip
    image = arrays["in/train.image_u8"]
    logits = arrays["in/train.pred_masks_f16"].astype(np.float32)
    batch = {
        "image": np.moveaxis(image, 1, -1),
        "proposals": np.asarray(upsampled(logits, image.shape[2:])),
        "proposals_valid": np.ones(logits.shape[:2], bool),
        **segments(arrays["in/train.labels_u8"], c["C"]),
    }
    _, frozen = task.init(jax.random.key(0), batch)
    return Case(task, {"visual": params}, frozen, batch, arrays, about)


def segments(labels: np.ndarray, classes: int) -> dict[str, np.ndarray]:
    """Makes one mask a class; rows of classes that are absent are padding."""
    masks = labels[:, None] == np.arange(classes)[:, None, None]
    ids = np.broadcast_to(np.arange(classes, dtype=np.int32), masks.shape[:2])
    return {"segments": masks, "segment_class": ids, "segment_valid": masks.any(axis=(2, 3))}


def rows(case: Case, values: np.ndarray) -> np.ndarray:
    """Takes [B K M] to the golden's rows: pictures × classes that are present."""
    return np.asarray(values)[case.batch["segment_valid"]]


def state(tree: Params) -> dict[str, np.ndarray]:
    """Names a tree shaped like the parameters as the checkpoints do, "IPCLIP.…"."""
    named = dict(export(tree, vision_leaves()))
    return {name.replace("visual.", "IPCLIP.", 1): x for name, x in named.items()}
