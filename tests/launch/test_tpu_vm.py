"""A whole run on a pretended TPU, from the request to the deletion."""

import time

import pytest

from launch.run import ROOT
from tests.launch.cloud import Cloud

PINS = ROOT / "launch" / "environments" / "py312-tpu.txt"
PLACE = ("--zone", "my-a", "--project", "mine")
RUN = ("tpu-vm", "--name", "big", *PLACE)
TYPE = ("--type", "v5e-16", "--spot")
# Odd values must reach the program as they are.
ODD = "a b$HOME*'\"\\;#"
COMMAND = ("--", "train", "--config", "miniature_clip:tiny", "--workdir", "/data/run", "--set",
           f"name={ODD}")  # fmt: skip
QUEUED = ("compute", "tpus", "queued-resources")


@pytest.fixture
def cloud(tmp_path, monkeypatch, capfd):
    return Cloud(tmp_path, PINS, monkeypatch, capfd)


def wait_for(what, seconds=300):
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end
        time.sleep(0.2)


def all_ended(cloud):
    """Tells whether both workers say so themselves; a log says it a little before its run ends."""
    return cloud.launch(*RUN, "--status").count(": ended with code 0") == 2


def test_from_the_request_to_the_deletion(cloud):
    said = cloud.launch(*RUN, *TYPE, *COMMAND)
    assert "costs until you delete it" in said and cloud.state() == "ACTIVE"
    for worker in (0, 1):
        wait_for(lambda worker=worker: cloud.trained(worker))
        ((argv, platforms, folder),) = cloud.trained(worker)
        assert argv == [*COMMAND[1:], "--distributed"]
        assert platforms == "tpu,cpu" and folder.endswith(f"workers/{worker}/openseg_runs/big/code")
    wait_for(lambda: all_ended(cloud))
    # Zone, project and type need not be said again, and starting twice asks once.
    assert "Asked for already: ACTIVE" in cloud.launch(*RUN, *TYPE, *COMMAND)
    assert len(cloud.calls(*QUEUED, "create")) == 1
    said = cloud.launch("tpu-vm", "--name", "big", "--delete")
    assert "Deleted: the request big and its TPU." in said and "queued-resources list" in said
    assert cloud.state() == ""
    assert cloud.calls(*QUEUED, "delete") == [
        [*QUEUED, "delete", "big", "--project=mine", "--zone=my-a", "--force", "--quiet"]
    ]
    assert "No request big is there" in cloud.launch(*RUN, "--delete")


def test_a_bucket_keeps_what_the_disk_does_not(cloud):
    bucket = ("--", "train", "--config", "miniature_clip:tiny", "--workdir", "gs://mine/big")
    assert "do not share" not in cloud.launch(*RUN, *TYPE, *bucket)
    wait_for(lambda: all_ended(cloud))
    ((argv, _, _),) = cloud.trained()
    assert argv[3:] == [
        "--workdir", "../work", "--checkpoints", "gs://mine/big/checkpoints", "--distributed",
    ]  # fmt: skip
    log = cloud.folder / "workers" / "0" / "openseg_runs" / "big" / "log.txt"
    told = [line for line in log.read_text().splitlines() if line.startswith("python")]
    assert told[0] == "python code/launch/mirror.py fetch work gs://mine/big"
    assert told[-1] == "python code/launch/mirror.py keep work gs://mine/big --log log.txt"


def test_a_preempted_tpu_is_asked_for_again_and_deleted_in_the_end(cloud, monkeypatch):
    cloud.ends_with("wait", on_another_tpu="0")
    monkeypatch.setenv("FAKE_LOSES", "ACTIVE,ACTIVE,ACTIVE,SUSPENDED")
    said = cloud.launch(*RUN, *TYPE, "--watch", "--delete-after", *COMMAND)
    assert "The last request is over" in said and "The command has ended well." in said
    assert len(cloud.calls(*QUEUED, "create")) == 2
    assert len(cloud.calls(*QUEUED, "delete")) == 2 and cloud.state() == ""


def test_a_failed_command_is_told_and_the_tpu_kept(cloud):
    cloud.ends_with("2")
    said = cloud.launch(*RUN, *TYPE, "--watch", "--delete-after", *COMMAND, code=2)
    assert "ended with code 2" in said and "costs until you delete it" in said
    assert cloud.state() == "ACTIVE" and len(cloud.trained()) == 1


def test_a_crash_is_tried_again(cloud):
    cloud.ends_with("1 1 0")
    cloud.launch(*RUN, *TYPE, *COMMAND)
    wait_for(lambda: len(cloud.trained()) == 3)
    wait_for(lambda: all_ended(cloud))


@pytest.mark.slow
def test_stopping_ends_the_command_and_says_that_the_tpu_costs(cloud):
    cloud.ends_with("wait")
    cloud.launch(*RUN, *TYPE, *COMMAND)
    wait_for(lambda: cloud.trained(1))
    assert "runs already" in cloud.launch(*RUN, *TYPE, *COMMAND)
    said = cloud.launch(*RUN, "--stop")
    assert said.count(": stopped") == 2 and "still yours and costs" in said
    assert cloud.launch(*RUN, "--status").count(": ended with code 143") == 2
    assert len(cloud.trained()) == 1


def test_nothing_is_claimed_deleted_when_the_cloud_does_not_answer(cloud, tmp_path):
    cloud.launch(*RUN, *TYPE, *COMMAND)
    (tmp_path / "down").touch()
    said = cloud.launch(*RUN, "--delete", code=1)
    assert "nothing is deleted" in said and "Deleted:" not in said
    assert cloud.state() == "ACTIVE"
    assert "--name big" in cloud.launch(code=2)  # the table still reminds of it


def test_a_failed_request_says_why(cloud, monkeypatch):
    monkeypatch.setenv("FAKE_LOSES", "FAILED")
    said = cloud.launch(*RUN, *TYPE, *COMMAND, code=1)
    assert "It will not become ACTIVE" in said and "Not started." in said
    assert cloud.calls(*QUEUED, "describe")


def test_no_quota_is_an_end_not_a_loop(cloud, monkeypatch):
    monkeypatch.setenv("FAKE_QUOTA", "1")
    said = cloud.launch(*RUN, *TYPE, "--watch", *COMMAND, code=1)
    assert "RESOURCE_EXHAUSTED" in said and len(cloud.calls(*QUEUED, "create")) == 1
