"""What stands after `--`: judged before it costs anything."""

import pytest

from launch.command import Command, parse
from launch.run import ROOT
from openseg_jax.errors import UserError

TRAIN = ["train", "--config", "miniature_clip:tiny", "--workdir", "runs/a"]


def test_distributed_is_added_once():
    command = parse([*TRAIN, "--distributed"], ROOT)
    assert command.distributed() == (*TRAIN, "--distributed")
    assert command.distributed("--process", "1")[-3:] == ("--distributed", "--process", "1")


def test_a_leading_openseg_is_dropped():
    assert parse(["openseg", *TRAIN], ROOT).argv == tuple(TRAIN)


@pytest.mark.parametrize(
    ("argv", "hint"),
    [
        ([], "add one: -- train"),
        (["trian"], "did you mean 'train'"),
        (["train", "--config", "miniature_clp", "--workdir", "x"], "did you mean 'miniature_clip'"),
        ([*TRAIN, "--sett", "a=1"], "did you mean --set"),
        ([*TRAIN, "--set", "stepps=1"], "did you mean 'steps'"),
        (["train", "--config", "nowhere.py", "--workdir", "x"], "no file 'nowhere.py'"),
        (["train", "--config", "miniature_clip"], "--workdir"),
    ],
)
def test_mistakes_are_found_before_they_cost(argv, hint):
    with pytest.raises(UserError, match=hint):
        parse(argv, ROOT)


def test_a_config_file_must_be_one_that_travels(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text((ROOT / "configs" / "miniature_clip.py").read_text())
    argv = ["train", "--config", str(file), "--workdir", "x"]
    with pytest.raises(UserError, match="a file of the checkout"):
        parse(argv, ROOT)
    assert parse(argv, None).option("--config") == str(file)


@pytest.mark.parametrize("equals", [False, True])
def test_a_config_of_the_checkout_is_named_from_its_top(equals):
    path = f"{ROOT}/configs/../configs/miniature_clip.py:tiny"
    words = [f"--config={path}"] if equals else ["--config", path]
    found = parse(["train", *words, "--workdir", "x"], ROOT)
    assert found.option("--config") == "configs/miniature_clip.py:tiny"


def test_work_folders_are_not_in_the_copy_of_the_code():
    there = Command(("train", "--workdir", "runs/a", "--export=out", "--checkpoints", "/nfs/a"))
    assert there.elsewhere().argv == (
        "train", "--workdir", "../runs/a", "--export=../out", "--checkpoints", "/nfs/a",
    )  # fmt: skip


def test_a_bucket_gets_the_checkpoints_and_a_copy_of_the_rest():
    there = Command(("train", "--workdir=gs://b/run/")).elsewhere()
    assert there.argv == (
        "train", "--workdir=../work", "--checkpoints", "gs://b/run/checkpoints",
    )  # fmt: skip
    own = Command(("train", "--workdir", "gs://b/run", "--checkpoints", "gs://c/x")).elsewhere()
    assert own.argv[-2:] == ("--checkpoints", "gs://c/x") and own.argv[2] == "../work"


def test_one_process_verbs_are_refused_on_several_machines():
    with pytest.raises(UserError, match="several processes can share train and evaluate only"):
        Command(("segment", "x.jpg")).distributed()
