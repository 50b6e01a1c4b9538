"""COCO's run-length code: known texts, round trips, damage."""

import numpy as np
import pytest

from openseg_jax.errors import UserError
from openseg_jax.ops import rle


def slow_counts(mask):
    counts, inside, run = [], 0, 0
    for value in mask.T.ravel().astype(int).tolist():
        if value != inside:
            counts.append(run)
            inside, run = value, 0
        run += 1
    return counts + [run]


def test_texts_worked_out_by_hand():
    # Runs 2, 2 -> letters chr(48 + 2); runs 0, 4; a run of 40 needs two letters: 8 + 32, then 1.
    assert rle.encode(np.array([[0, 1], [0, 1]]))["counts"] == "22"
    assert rle.encode(np.ones((2, 2), bool))["counts"] == "04"
    assert rle.encode(np.zeros((5, 8), bool)) == {"size": [5, 8], "counts": "X1"}
    # Runs 3, 1, 2, 5, 1: the fourth is stored as 5 - 1, the fifth as 1 - 2.
    mask = np.array([0, 0, 0, 1, 0, 0, 1, 1, 1, 1, 1, 0])[:, None]
    assert rle.encode(mask)["counts"] == "3124O"


@pytest.mark.parametrize("shape", [(1, 1), (7, 5), (64, 33), (1, 900)])
@pytest.mark.parametrize("density", [0.0, 0.02, 0.5, 1.0])
def test_round_trip(shape, density):
    mask = np.random.default_rng(3).random(shape) < density
    code = rle.encode(mask)
    np.testing.assert_array_equal(rle.decode(code), mask)
    assert code["counts"].isascii()
    assert sum(slow_counts(mask)) == mask.size


def test_damage_is_named():
    code = rle.encode(np.eye(5, dtype=bool))
    with pytest.raises(UserError, match="fill 5x6"):
        rle.decode({"size": [5, 6], "counts": code["counts"]})
    with pytest.raises(UserError, match="fill 5x5"):
        rle.decode({"size": [5, 5], "counts": code["counts"][:-1] + "P"})
    with pytest.raises(UserError, match="got 0 pixels"):
        rle.decode({"size": [5, 5], "counts": ""})


def letter_by_letter(text):
    """The decoder as COCO's API writes it."""
    counts, number, shift = [], 0, 0
    for letter in text:
        bits = ord(letter) - 48
        number |= (bits & 0x1F) << shift
        shift += 5
        if not bits & 0x20:
            number -= (1 << shift) if bits & 0x10 else 0
            counts.append(number + (counts[-2] if len(counts) > 2 else 0))
            number = shift = 0
    return counts


def test_all_letters_at_once_are_as_one_by_one():
    rng = np.random.default_rng(0)
    for _ in range(50):
        counts = rng.integers(0, 10 ** rng.integers(1, 6), rng.integers(1, 40)).tolist()
        inside = np.arange(len(counts)) % 2 == 1
        mask = np.repeat(inside, counts)[:, None]
        code = rle.encode(mask)
        np.testing.assert_array_equal(rle.decode(code), mask)
        assert sum(letter_by_letter(code["counts"])) == mask.size
        plain = rle.decode({"size": list(mask.shape), "counts": letter_by_letter(code["counts"])})
        np.testing.assert_array_equal(plain, mask)
