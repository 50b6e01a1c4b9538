"""Labels as people type them."""

import pytest

from openseg_jax.errors import UserError
from openseg_jax.inputs import labels


@pytest.mark.parametrize(
    ("text", "want"),
    [
        ("zebra, ladybird, grass", ["zebra", "ladybird", "grass"]),
        ("zebra", ["zebra"]),
        (" zebra ,, grass , ", ["zebra", "grass"]),
        ('"person,people", grass', ["person,people", "grass"]),
        (r"person\,people, grass", ["person,people", "grass"]),
        ("hot   dog\nred\tcar", ["hot dog", "red car"]),
        ("🦓, Füßgänger", ["🦓", "Füßgänger"]),
        ("", []),
        (" , ,", []),
    ],
)
def test_parse(text, want):
    assert labels.parse_labels(text) == want


def test_an_open_quote_is_named():
    with pytest.raises(UserError, match="never closed"):
        labels.parse_labels('zebra, "person, people')


def test_files(tmp_path):
    path = tmp_path / "labels.txt"
    path.write_text("# our animals\nzebra\n\nperson,people\n12\tladybird\n", encoding="utf-8-sig")
    assert labels.read_labels(path) == ["zebra", "person,people", "ladybird"]
    path.write_bytes(b"\xff\xfe\x00z")
    with pytest.raises(UserError, match="UTF-8"):
        labels.read_labels(path)
    with pytest.raises(UserError, match="cannot read the labels"):
        labels.read_labels(tmp_path / "none.txt")
    with pytest.raises(UserError, match="cannot read the labels"):
        labels.read_labels(tmp_path)


def test_duplicates_are_merged_and_told():
    names, merged = labels.merge_duplicates(["Zebra", "grass", " zebra", "GRASS", "zebra"])
    assert names == ["Zebra", "grass"]
    assert merged == ["zebra", "GRASS", "zebra"]


def test_nothing_left_is_an_error():
    for bad in ([], [" "], [""]):
        with pytest.raises(UserError, match="at least one label"):
            labels.merge_duplicates(bad)
    with pytest.raises(UserError, match="expected a list"):
        labels.merge_duplicates("zebra, grass")


def test_without():
    assert labels.without(["Grass", "sky"], ["grass"]) == ["sky"]


def test_bytes_of_another_encoding_are_told():
    typed = b"zebra, caf\xe9".decode("utf-8", "surrogateescape")  # as Python gives arguments
    with pytest.raises(UserError, match=r"labels: 'caf\\udce9' .* UTF-8"):
        labels.parse_labels(typed)
    with pytest.raises(UserError, match="UTF-8"):
        labels.merge_duplicates(["zebra", typed])
