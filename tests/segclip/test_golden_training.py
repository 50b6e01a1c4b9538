"""SegCLIP golden: the total loss with given noise, all gradients, and AdamW steps."""

import functools
import re

import jax
import numpy as np
import optax
import pytest

from openseg_jax.models.segclip import SegCLIP
from openseg_jax.models.variants import Preprocess
from openseg_jax.tasks.segclip import MULTIPLIER, WEIGHT_DECAY, Noise, SegClipTask
from openseg_jax.train.optim import make_adamw, make_schedule, match_rules, trainable_names
from openseg_jax.weights.segclip import POSITIONS, leaves, to_state_dict
from openseg_jax.weights.tree import flatten, unflatten
from tests.segclip.models import FULL, close, error, full_model, last, load, quick_jit

CASE = pytest.mark.parametrize("path", FULL, ids=lambda p: p.stem)
MODES = {"fixed": "per_image", "torch18": "torch18"}
LOSSES = {"sim": "contrastive", "kl": "superpixel", "mae": "reconstruction"}


def task_of(path, mode):
    config, _ = full_model(path)
    model = SegCLIP(config, cross_batch_kv=MODES[mode])
    return SegClipTask(model, Preprocess(config.clip.vision.image_size))


@functools.cache
def loss_and_grads(path, mode):
    """Compiles the total loss with the noise as an argument; gradients of everything."""
    a, _ = load(path)
    task = task_of(path, mode)
    image, ids = last(a["in/image"]), a["in/text_ids"].astype(np.int32)
    positive = np.eye(len(image), dtype=bool)

    def total(params, noise):
        parts = task.parts(params, image, ids, positive, a["in/image_seg"], noise)
        return sum(parts.losses.values()), parts

    return quick_jit(jax.value_and_grad(total, has_aux=True))


def noise_of(a, prefix, index=...):
    # The reference draws a number for the class token too, and never hides it.
    names = ("gumbel_main", "mae_noise", "gumbel_mae")
    main, hide, seen = (a[f"{prefix}/{name}"][index] for name in names)
    return Noise(main, hide[..., 1:], seen)


@CASE
@pytest.mark.parametrize("mode", MODES)
def test_segclip_golden_total_loss_and_gradients(path, mode):
    a, meta = load(path)
    config, params = full_model(path)
    (total, parts), grads = loss_and_grads(path, mode)(params, noise_of(a, "in/train"))
    want = {k.removeprefix(f"out/train_{mode}/"): v for k, v in a.items() if f"train_{mode}/" in k}
    close(total, want["total"])
    for theirs, ours in LOSSES.items():
        close(parts.losses[ours], want[f"{theirs}_loss"])
    scale = np.float32(parts.scale)
    close(scale * (parts.text @ parts.image.T), want["t2v"])
    close(scale * (parts.image @ parts.text.T), want["v2t"])
    grouping = parts.encoded.grouping
    np.testing.assert_array_equal(grouping.hard, want["hard_attn"])
    close(grouping.logits, want["attn_logits"])
    np.testing.assert_array_equal(parts.masked.grouping.hard, want["mae_hard_attn"])
    close(parts.masked.grouping.logits, want["mae_attn_logits"])

    theirs = dict(to_state_dict(config, grads))
    norms = np.array([np.linalg.norm(theirs[name]) for name in meta["trainable_names"]])
    sums = np.array([theirs[name].sum() for name in meta["trainable_names"]])
    np.testing.assert_allclose(norms, want["grad_l2"], rtol=2e-4)
    close(sums, want["grad_sum"])
    np.testing.assert_allclose(np.sqrt((norms**2).sum()), want["grad_global_norm"], rtol=1e-4)
    full = [k.removeprefix("grad/") for k in want if k.startswith("grad/")]
    assert full
    for name in full:
        close(theirs[name], want[f"grad/{name}"])


@CASE
def test_segclip_golden_variants_differ(path):
    """Twin: the other attention would be seen in these tests, in gradients and embeddings."""
    a, _ = load(path)
    for name in ("grad_l2", "image_embed"):
        fixed, scrambled = (a[f"out/train_{mode}/{name}"] for mode in MODES)
        assert error(fixed, scrambled) > 1e-2


@CASE
def test_segclip_golden_parameter_groups(path):
    """Our rules over our names make the reference's groups over its names."""
    _, meta = load(path)
    config, params = full_model(path)
    names = list(flatten(params))
    trained = trainable_names(task_of(path, "fixed").trainable, names)
    share = match_rules(MULTIPLIER, names, "multiplier")
    decay = match_rules(WEIGHT_DECAY, names, "weight_decay")
    theirs = {}
    for leaf in leaves(config):
        count = len(flatten(params)[leaf.target]) if leaf.per_block else 1
        for i in range(count):
            values = (share[leaf.target], decay[leaf.target], leaf.target in trained)
            # Where ours are parts of one of theirs, they must agree.
            assert theirs.setdefault(leaf.source.format(i=i), values) == values
    for name, on in meta["trainable"].items():
        assert name == POSITIONS or theirs[name][2] == on, name
    for group in meta["param_groups"]:
        for name in group["names"]:
            if meta["trainable"].get(name):
                want = (group["lr"] / meta["opt"]["lr"], group["weight_decay"])
                assert theirs.pop(name)[:2] == want, name
    assert not any(trains for _, _, trains in theirs.values())


@CASE
def test_segclip_golden_adamw_steps(path):
    a, meta = load(path)
    o = meta["opt"]
    config, start = full_model(path)
    task = task_of(path, "fixed")
    trained = sorted(trainable_names(task.trainable, flatten(start)))
    schedule = make_schedule(
        "cosine_from_one", peak=o["lr"], steps=o["t_total"], warmup=o["warmup"] * o["t_total"]
    )
    rules = ((r".*/bias", 0.0), (r".*", o["weight_decay"]))
    share = ((MULTIPLIER[0][0], o["lower_lr"] / o["lr"]), (r".*", 1.0))
    tx = make_adamw(
        trained, schedule, b1=o["b1"], b2=o["b2"], eps=o["eps"], clip=o["clip_grad"],
        weight_decay=rules, multiplier=share,
    )  # fmt: skip

    @quick_jit
    def update(params, grads, opt_state):
        flat = flatten(params)
        learning = {name: flat[name] for name in trained}
        grads = {name: flatten(grads)[name] for name in trained}
        updates, opt_state = tx.update(grads, opt_state, learning)
        moved = task.constrain(unflatten({**flat, **optax.apply_updates(learning, updates)}))
        return moved, opt_state, optax.global_norm(grads)

    params, opt_state = start, tx.init({name: flatten(start)[name] for name in trained})
    begin = dict(to_state_dict(config, start))
    for step in range(o["steps"]):
        noise = noise_of(a, "in/opt", step)
        (total, parts), grads = loss_and_grads(path, o.get("kv_mode", "fixed"))(params, noise)
        columns = [re.sub(r"_loss$", "", name) for name in o["losses_columns"]]
        got = [total if n == "total" else parts.losses[LOSSES[n]] for n in columns]
        np.testing.assert_allclose(np.array(got), a["out/opt/losses"][step], rtol=1e-3)
        np.testing.assert_allclose(schedule(step), a["out/opt/lr"][step, 0], rtol=1e-5)
        params, opt_state, norm = update(params, grads, opt_state)
        np.testing.assert_allclose(norm, a["out/opt/grad_norm_before_clip"][step], rtol=1e-3)
        now = dict(to_state_dict(config, params))
        moved = [np.linalg.norm(now[n] - begin[n]) for n in meta["trainable_names"]]
        close(np.array(moved), a["out/opt/update_l2"][step], 1e-3)
    final = {k.removeprefix("out/opt/final/"): v for k, v in a.items() if "out/opt/final/" in k}
    # Some folders hold the start where the end should be, against their own `update_l2`.
    if any(error(begin[name], want) > 0 for name, want in final.items()):
        for name, want in final.items():
            close(now[name], want, 1e-3)
    # The test can fail: counted from zero, the first step would not move at all.
    zero = make_schedule("cosine", peak=o["lr"], steps=o["t_total"], warmup=1)
    assert zero(0) == 0 and a["out/opt/update_l2"][0].min() > 0
