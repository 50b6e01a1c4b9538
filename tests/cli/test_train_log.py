"""What a training shows of the many things that libraries log."""

import logging
from pathlib import Path

import pytest

import openseg_jax
from openseg_jax.cli.train import _is_ours_or_matters

OURS = Path(openseg_jax.__file__).parent


@pytest.mark.parametrize(
    ("path", "level", "shown"),
    [
        (OURS / "train" / "loop.py", logging.INFO, True),
        (OURS.parent / "venv" / "site-packages" / "jax" / "xla_bridge.py", logging.INFO, False),
        (OURS.parent / "venv" / "site-packages" / "jax" / "xla_bridge.py", logging.WARNING, True),
        (OURS.parent / "venv" / "orbax" / "manager.py", logging.WARNING, False),
        (OURS.parent / "venv" / "orbax" / "manager.py", logging.ERROR, True),
    ],
)
def test_a_training_shows_what_is_ours_or_matters(path, level, shown):
    record = logging.LogRecord("absl", level, str(path), 1, "said", (), None)
    assert _is_ours_or_matters(record) is shown
