"""The loop stops early: asked to by a signal, or because the loss is not finite."""

import signal

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from openseg_jax.configs.miniature_clip import get_config

from openseg_jax.cli.main import main
from openseg_jax.errors import UserError
from openseg_jax.inputs.pipeline import batches
from openseg_jax.train import setup
from openseg_jax.train.bad_batch import replay
from openseg_jax.train.checkpoint import Checkpoints
from openseg_jax.train.loop import TrainingDiverged, TrainingStopped, train
from openseg_jax.train.stopping import Stopping
from tests.train.toy import Line
from tests.train.toy_setup import Numbers, Toy

NAN_AT = 2.2  # about one batch in seventy begins with a number above it
TOY = ("task.name=toy", "name=fatal", "optim.weight_decay=(('.*', 0.0),)", "steps=400")


@pytest.fixture(autouse=True)
def _toy(monkeypatch):
    monkeypatch.setitem(setup.TASKS, "toy", ("tests.train.test_stopping", "build"))


def build(config, mesh=None):
    return Toy(Line(nan_at=None if config.name == "sound" else NAN_AT))


class Table(Line):
    """Reads rows of a frozen table by numbers of the batch, as text towers read tokens."""

    def __init__(self):
        super().__init__((("table", False), (".*", True)), NAN_AT)

    def init(self, key, batch):
        params, frozen = super().init(key, batch)
        return {**params, "table": jnp.zeros(2)}, frozen

    def loss(self, params, frozen, batch, *, key):
        value, metrics = super().loss(params, frozen, batch, key=key)
        rows = (batch["x"][:, 0] > 0).astype(jnp.int32)
        return value + params["table"][rows].sum(), metrics


def build_table(config, mesh=None):
    return Toy(Table())


def _config(steps, name="sound", **more):
    config = get_config("tiny")
    config.optim.update({"schedule": "constant", "warmup": 0, "weight_decay": ((".*", 0.0),)})
    config.task.name = "toy"
    config.update({"name": name, "steps": steps, "checkpoint_every": 1000, "log_every": 1000})
    config.update(more)
    return config


def _batches():
    return batches(Numbers(), 8, shuffle=False, threads=1)


def _fatal_step():
    for step, batch in enumerate(_batches(), 1):
        if batch["x"][0, 0] > NAN_AT:
            return step, batch
    return None


def _equal(a, b):
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(a), jax.device_get(b))


@pytest.mark.slow
def test_a_signal_saves_and_the_same_call_goes_on(tmp_path):
    def strike(number):
        def hook(step, state):
            if step == 4:
                signal.raise_signal(number)

        return hook

    straight = train(_config(12), tmp_path / "straight", show=False)
    for number, code in ((signal.SIGTERM, 143), (signal.SIGINT, 130)):
        folder, before = tmp_path / str(code), signal.getsignal(number)
        config = _config(12, checkpoint_every=4)
        with pytest.raises(
            TrainingStopped, match="step 5 of 12 is saved; the same command"
        ) as stop:
            train(config, folder, on_checkpoint=strike(number), show=False)
        assert stop.value.exit_code == code and stop.value.step == 5
        assert signal.getsignal(number) is before
        _equal(train(config, folder, show=False), straight)


def test_a_second_interrupt_does_not_wait():
    with Stopping(lambda step: False, processes=1) as stopping:
        assert not stopping.wanted(1)
        signal.raise_signal(signal.SIGINT)
        assert stopping.wanted(1)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)


def test_with_several_processes_the_coordinator_decides():
    sent = []
    before = signal.signal(signal.SIGTERM, lambda *_: sent.append(1))
    try:
        with Stopping(lambda step: step == 3, processes=2) as stopping:
            signal.raise_signal(signal.SIGINT)
            assert sent == [1], "the coordinator, which takes SIGTERM, was not told"
            assert [stopping.wanted(step) for step in (1, 2, 3)] == [False, False, True]
            assert stopping.number == signal.SIGINT
    finally:
        signal.signal(signal.SIGTERM, before)


def test_the_very_batch_is_kept_though_metrics_are_seen_late(tmp_path, capsys):
    step, batch = _fatal_step()
    assert 2 < step < 400
    with pytest.raises(TrainingDiverged, match=rf"at step {step};.*bad_batch_{step}.npz") as found:
        train(_config(400, "fatal", log_every=200), tmp_path, show=False)
    assert str(tmp_path) in str(found.value)
    kept = np.load(tmp_path / f"bad_batch_{step}.npz")
    assert int(kept["step"]) == step and kept["rows"].tolist() == list(range(8))
    for name, rows in batch.items():
        np.testing.assert_array_equal(kept[f"batch/{name}"], rows)
    # the state before is that of a training which ends there
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    state = checkpoints.restore_host(step - 1)
    checkpoints.close()
    straight = train(_config(step - 1), tmp_path / "straight", show=False)
    _equal(state["params"], straight.params)
    assert int(state["step"]) == step - 1
    # and going on meets the same batch
    with pytest.raises(TrainingDiverged, match=f"at step {step};"):
        train(_config(400, "fatal"), tmp_path, show=False)
    again = replay(_config(400, "fatal"), tmp_path, step)
    assert np.isnan(again.metrics["loss"]) and not again.unsound
    assert sorted(again.gradients) == ["idle", "line/b", "line/w"]
    sound = replay(_config(400), tmp_path, step)
    assert np.isfinite([sound.metrics["loss"], *sound.gradients.values()]).all()
    with pytest.raises(UserError, match="--replay: expected 8 rows in"):
        replay(_config(400), tmp_path, step + 1)
    words = ["train", "--config", "miniature_clip:tiny", "--workdir", str(tmp_path)]
    words += [word for setting in TOY for word in ("--set", setting)]
    assert main([*words, "--replay", str(step)]) == 0
    first, second, *_ = capsys.readouterr().out.splitlines()
    assert first.startswith(f"step {step}: loss nan, error ")
    assert second.startswith("gradients that are not finite: ") and second.endswith(" of 3")


def test_a_batch_is_tried_again_with_frozen_tables(tmp_path, monkeypatch):
    monkeypatch.setitem(setup.TASKS, "toy", ("tests.train.test_stopping", "build_table"))
    with pytest.raises(TrainingDiverged):
        train(_config(400, log_every=200), tmp_path, show=False)
    step, _ = _fatal_step()
    again = replay(_config(400), tmp_path, step)
    assert np.isnan(again.metrics["loss"]) and "table" not in again.gradients


def test_the_command_says_a_stop_in_one_line(tmp_path, monkeypatch, capsys):
    def stopped(*args, **more):
        raise TrainingStopped(5, 12, signal.SIGTERM)

    monkeypatch.setattr("openseg_jax.train.loop.train", stopped)
    words = ["train", "--config", "miniature_clip:tiny", "--workdir", str(tmp_path)]
    assert main(words) == 143
    error = capsys.readouterr().err.strip()
    assert error == (
        "openseg: stopped by SIGTERM: step 5 of 12 is saved; the same command goes on from there"
    )
