"""Names are checked alike whatever the method."""

import numpy as np
import pytest

from openseg_jax.errors import UserError
from openseg_jax.methods import car_texts, maft_texts, segclip_texts
from openseg_jax.methods.vocabulary import checked_names, rivals_of, unit_rows


@pytest.mark.parametrize(
    "names, said",
    [
        ("zebra", "list of texts"),
        ([], "at least one"),
        (["a", " "], "empty"),
        (["a", "a"], "twice"),
    ],
)
def test_bad_names_are_refused(names, said):
    with pytest.raises(UserError, match=said):
        checked_names(names)


def test_every_method_asks_the_same():
    modules = (car_texts, maft_texts, segclip_texts)
    assert all(module.checked_names is checked_names for module in modules)


def test_rivals_are_no_names_and_come_once():
    assert rivals_of(["sky"], None, ["sky", "sea", "sea"]) == ("sea",)
    assert rivals_of(["sky"], (), ["sea"]) == ()
    assert rivals_of(["sky"], ["road"], ["sea"]) == ("road",)


def test_rows_have_unit_length_and_zeros_stay():
    rows = unit_rows(np.array([[3.0, 4.0], [0.0, 0.0]]))
    np.testing.assert_allclose(rows, [[0.6, 0.8], [0.0, 0.0]], atol=1e-7)
    assert rows.dtype == np.float32
