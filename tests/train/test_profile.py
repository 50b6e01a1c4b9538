import os
import signal

import jax
import jax.numpy as jnp
import pytest

from openseg_jax.errors import UserError
from openseg_jax.train.profile import STEPS, Profiler, parse_window


def _train(workdir, window="", steps=12, ask=None, last=None):
    step_fn = jax.jit(lambda x: x + 1)
    x = jnp.zeros(())
    with Profiler(workdir, window) as profiler:
        for step in range(1, steps + 1):
            if ask is not None and step == 3:
                ask()
            assert profiler.begin(step) >= 0
            with profiler.mark(step):
                x = step_fn(x)
            after = profiler.end(step, x)
            assert (after > 0) == (step == last)
    return sorted(p.name for p in workdir.glob("profile*"))


def _traces(folder):
    return {p.name.split(".", 1)[-1] for p in folder.rglob("*") if p.is_file()}


def test_a_window_is_profiled(tmp_path):
    assert _train(tmp_path, "2:4", last=3) == ["profile_2"]
    names = _traces(tmp_path / "profile_2")
    assert any(name.endswith("xplane.pb") for name in names)
    assert any(name.endswith("json.gz") for name in names)


def test_asking_by_file_or_signal_profiles_what_comes_next(tmp_path):
    for name, ask in (
        ("file", lambda: (tmp_path / "file/profile").touch()),
        ("signal", lambda: os.kill(os.getpid(), signal.SIGUSR1)),
    ):
        (tmp_path / name).mkdir()
        made = _train(tmp_path / name, ask=ask, last=2 + STEPS)
        assert made == ["profile_3"]  # the request is gone
    assert signal.getsignal(signal.SIGUSR1) == signal.SIG_DFL
    assert STEPS < 12


def test_a_profile_that_the_end_of_a_run_cuts_short_is_written(tmp_path):
    assert _train(tmp_path, "11:99") == ["profile_11"]
    assert _traces(tmp_path / "profile_11")


def test_windows():
    assert parse_window("100:105") == (100, 105) and parse_window("") is None
    for text in ("5", "5:5", "0:2", "a:b"):
        with pytest.raises(UserError, match=r"watch\.profile: expected two steps as in 100:105"):
            parse_window(text)
