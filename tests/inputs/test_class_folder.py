import numpy as np
import pytest
from PIL import Image

from openseg_jax.errors import UserError
from openseg_jax.inputs.class_folder import ClassFolder


@pytest.fixture
def folder(tmp_path):
    for kind, count in (("b_zebra", 3), ("a_lemon", 1), ("c_egg", 2)):
        (tmp_path / "set" / kind).mkdir(parents=True)
        for i in range(count):
            grey = np.full((4, 6, 3), 10 * i, np.uint8)
            Image.fromarray(grey).save(tmp_path / "set" / kind / f"{i}.png")
    (tmp_path / "set" / "notes.txt").write_text("no class")
    (tmp_path / "set" / ".hidden").mkdir()
    return tmp_path / "set"


def test_classes_are_the_sorted_folders_and_any_beginning_is_even(folder):
    found = ClassFolder(folder)
    assert list(found.names) == ["a lemon", "b zebra", "c egg"]
    assert [kind for _, kind in (found[i] for i in range(len(found)))] == [0, 1, 2, 1, 2, 1]
    image, kind = found[3]
    assert kind == 1 and image.shape == (4, 6, 3) and image[0, 0, 0] == 10
    assert [found[i][1] for i in range(len(ClassFolder(folder, limit=3)))] == [0, 1, 2]


def test_names_come_from_a_file(folder, tmp_path):
    (tmp_path / "names.txt").write_text("Lemon\nZebra, a horse\nEgg\n")
    names = ClassFolder(folder, str(tmp_path / "names.txt")).names
    assert list(names) == ["Lemon", "Zebra, a horse", "Egg"]
    (tmp_path / "names.txt").write_text("Lemon\n")
    with pytest.raises(UserError, match=r"evaluate\.labels: expected 3 names.*1 in"):
        ClassFolder(folder, str(tmp_path / "names.txt"))
    with pytest.raises(UserError, match="did you mean 'voc21'"):
        ClassFolder(folder, "voc2")


def test_what_is_not_there_is_said(folder, tmp_path):
    with pytest.raises(UserError, match=r"evaluate\.path.*check the path"):
        ClassFolder(tmp_path / "nothing")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="no folders"):
        ClassFolder(tmp_path / "empty")
    (tmp_path / "empty" / "zebra").mkdir()
    with pytest.raises(UserError, match="no pictures"):
        ClassFolder(tmp_path / "empty")
