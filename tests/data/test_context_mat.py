"""PASCAL Context's MATLAB files."""

import numpy as np
import pytest
import scipy.io
from openseg_jax.data.prepare.context_mat import read_label_mat

from openseg_jax.errors import UserError


def save(path, values, name="LabelMap", **kwargs):
    scipy.io.savemat(path, {name: values}, **kwargs)
    return path


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("dtype", [np.uint16, np.float64])
def test_values_come_back(tmp_path, dtype, compressed):
    values = np.random.default_rng(0).integers(0, 460, (13, 17)).astype(dtype)
    path = save(tmp_path / "a.mat", values, do_compression=compressed)
    np.testing.assert_array_equal(read_label_mat(path, 459), values)


@pytest.mark.parametrize("keep", [0, 60, 200, 0.5, 0.98])
@pytest.mark.parametrize("compressed", [False, True])
def test_a_file_cut_short_is_named(tmp_path, keep, compressed):
    values = np.random.default_rng(0).integers(0, 460, (60, 70)).astype(np.uint16)
    path = save(tmp_path / "2008_000002.mat", values, do_compression=compressed)
    data = path.read_bytes()
    path.write_bytes(data[: int(keep * len(data)) if isinstance(keep, float) else keep])
    with pytest.raises(UserError, match=r"2008_000002\.mat"):
        read_label_mat(path, 459)


@pytest.mark.parametrize(
    ("values", "name", "message"),
    [
        (np.full((2, 2), 460, np.uint16), "LabelMap", "labels from 0 to 459"),
        (np.full((2, 2), -1, np.int16), "LabelMap", "labels from 0 to 459"),
        (np.full((2, 2), 1.5), "LabelMap", "labels from 0 to 459"),
        (np.full((2, 2), np.nan), "LabelMap", "labels from 0 to 459"),
        (np.zeros((2, 2), np.uint16), "other", "got none"),
        (np.zeros((2, 2, 3), np.uint16), "LabelMap", "one number a pixel"),
        (np.array(["text"]), "LabelMap", "one number a pixel"),
        (np.zeros((0, 3), np.uint16), "LabelMap", "one number a pixel"),
    ],
)
def test_wrong_content_is_refused(tmp_path, values, name, message):
    with pytest.raises(UserError, match=message):
        read_label_mat(save(tmp_path / "a.mat", values, name), 459)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(UserError, match="no such file"):
        read_label_mat(tmp_path / "a.mat", 459)
