"""TensorFlow for tests that compare with it; the library itself never imports it."""

from __future__ import annotations

import importlib.util
import os
from typing import Any

import pytest

INSTALL = "TensorFlow is not installed: pip install -e '.[test-builders]'"


def tensorflow() -> Any:
    """Returns TensorFlow, or skips the test saying how to get it."""
    if importlib.util.find_spec("tensorflow") is None:
        pytest.skip(INSTALL)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    import tensorflow as tf

    return tf
