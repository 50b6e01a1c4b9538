"""MAFT golden: losses, targets, gradients and optimiser steps of stage 2."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from openseg_jax.ops.token_masks import token_masks
from openseg_jax.train.optim import make_adamw, trainable_names
from openseg_jax.train.state import flat_names, nested, split_params
from openseg_jax.train.step import init_state
from tests import golden
from tests.maft import training

CASES = golden.cases("maft", "maft_e2e")
KEY = jax.random.key(0)


@functools.cache
def program(path):
    """Compiles what all tests share: losses, what they compare, and gradients."""
    case = training.case(path)

    def run(params, batch):
        loss, metrics = case.task.loss(params, case.frozen, batch, key=KEY)
        return loss, (metrics, case.task.forward(params, case.frozen, batch, key=KEY))

    return case, jax.jit(jax.value_and_grad(run, has_aux=True))


@functools.cache
def outputs(path):
    case, run = program(path)
    (_, (metrics, out)), grads = jax.device_get(run(case.params, case.batch))
    return case, metrics, out, grads


def losses(case, metrics):
    found = {name: float(total / count) for name, (total, count) in metrics.items()}
    return found["mask_aware"], case.task.distillation * found["distillation"]


@functools.cache
def optimiser(path):
    case = training.case(path)
    opt = case.about["optimiser"]
    trained = trainable_names(case.task.trainable, flat_names(case.params))
    decay = ((r".*/(ln_\w+)/.*", 0.0), (r".*", opt["weight_decay"]))
    tx = make_adamw(
        trained,
        lambda step: opt["lr"],
        b2=0.999,
        clip=opt["clip_global_norm"],
        weight_decay=decay,
    )
    return trained, tx


@pytest.mark.parametrize("path", CASES, ids=lambda p: p.stem)
def test_maft_golden_training_probabilities(path):
    case, _, out, _ = outputs(path)
    want = {k[len("out/train.") :]: v for k, v in case.arrays.items() if k.startswith("out/train")}
    np.testing.assert_allclose(out["student"], want["distill_student_probs"], atol=1e-4)
    np.testing.assert_allclose(out["teacher"], want["distill_teacher_probs"], atol=1e-4)
    classes = case.batch["segment_class"]
    chosen = np.take_along_axis(out["masks"].swapaxes(1, 2), classes[..., None], axis=1)
    np.testing.assert_allclose(training.rows(case, chosen), want["instance_probs"], atol=1e-4)
    np.testing.assert_allclose(training.rows(case, out["iou"]), want["iou_raw"], atol=1e-5)
    target = training.rows(case, out["target"])
    np.testing.assert_allclose(target, want["iou_target_minmax"], atol=1e-4)


@pytest.mark.parametrize("path", CASES, ids=lambda p: p.stem)
def test_maft_golden_training_inputs(path):
    case = training.case(path)
    corner = case.arrays["out/train.clip_input480_corner"]
    found = np.moveaxis(np.asarray(case.task.pixels(case.batch["image"])), -1, 1)
    np.testing.assert_allclose(found[..., : corner.shape[2], : corner.shape[3]], corner, atol=1e-4)
    side = case.about["config"]["clip_input"] // case.about["config"]["patch"]
    packed = case.arrays["out/train.token_mask_packed"]
    inside = np.asarray(token_masks(jnp.asarray(case.batch["proposals"]), (side, side)))
    np.testing.assert_array_equal(np.packbits(inside, axis=-1), packed)


@pytest.mark.parametrize("path", CASES, ids=lambda p: p.stem)
def test_maft_golden_training_losses(path):
    case, metrics, _, _ = outputs(path)
    want = [case.arrays[f"out/train.{name}"] for name in ("ma_loss", "dis_loss_weighted")]
    np.testing.assert_allclose(losses(case, metrics), want, rtol=1e-4)


@pytest.mark.parametrize("path", CASES, ids=lambda p: p.stem)
def test_maft_golden_training_gradients(path):
    case, _, _, grads = outputs(path)
    named = training.state(grads)
    for name, norm in case.about["grad_norms"].items():
        np.testing.assert_allclose(np.linalg.norm(named[name]), norm, rtol=2e-3, err_msg=name)
        if f"out/grad.{name}" in case.arrays:
            want = case.arrays[f"out/grad.{name}"]
            np.testing.assert_allclose(named[name], want, atol=2e-3 * norm, err_msg=name)
    total = np.sqrt(sum(np.square(named[name]).sum() for name in case.about["trainable"]))
    np.testing.assert_allclose(total, case.about["total_grad_norm"], rtol=1e-3)


@pytest.mark.parametrize("path", CASES, ids=lambda p: p.stem)
def test_maft_golden_training_what_learns(path):
    case = training.case(path)
    trained, tx = optimiser(path)
    marks = {n: np.full(x.shape, n in trained) for n, x in flat_names(case.params).items()}
    named = training.state(nested(marks))
    assert sorted(n for n, x in named.items() if x.all()) == sorted(case.about["trainable"])
    assert not any(x.any() for n, x in named.items() if n not in case.about["trainable"])
    # Teacher, text and what is fixed have no optimiser state.
    state = init_state(case.params, tx, trained)
    sizes = [x.size for x in jax.tree.leaves(state.opt_state) if x.ndim]
    learning = sum(x.size for n, x in flat_names(case.params).items() if n in trained)
    assert sum(sizes) == 2 * learning


@pytest.mark.parametrize("path", CASES, ids=lambda p: p.stem)
def test_maft_golden_training_optimiser(path):
    case, run = program(path)
    trained, tx = optimiser(path)
    update = jax.jit(tx.update)
    learning, fixed = split_params(case.params, trained)
    state, history = tx.init(learning), []
    for number in range(case.about["optimiser"]["steps"] + 1):
        params = nested({**learning, **fixed})
        (_, (metrics, _)), grads = run(params, case.batch)
        history.append(losses(case, metrics))
        if number < case.about["optimiser"]["steps"]:
            updates, state = update(split_params(grads, trained)[0], state, learning)
            learning = jax.tree.map(jnp.add, learning, updates)
    want = case.arrays["out/opt.loss_history"]
    np.testing.assert_allclose(history, want, rtol=1e-3)
    named, start = training.state(jax.device_get(params)), training.state(case.params)
    for name, value in case.arrays.items():
        if name.startswith("out/opt.final."):
            name = name[len("out/opt.final.") :]
            moved = np.abs(value - start[name]).max()
            assert moved > 0
            np.testing.assert_allclose(named[name], value, atol=0.02 * moved, err_msg=name)


def test_maft_golden_training_can_fail():
    """Hard IoU, and a teacher's weights for the student, give other losses."""
    assert CASES
    for path in CASES:
        case, run = program(path)
        right = losses(case, outputs(path)[1])
        batch = case.batch | {"proposals": np.float32(case.batch["proposals"] > 0.5)}
        hard = losses(case, run(case.params, batch)[0][1][0])
        assert abs(hard[0] / right[0] - 1) > 1e-3
        untrained = losses(case, run({"visual": case.frozen["teacher"]}, case.batch)[0][1][0])
        assert untrained[1] < 1e-3 * right[1]
