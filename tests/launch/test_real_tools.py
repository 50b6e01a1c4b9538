"""The real gcloud and XPK judge our flags, where they are; without an account they stop there."""

import os
import shlex
import shutil
import subprocess

import pytest

from tests.launch.scripts import commands, dry, without_files
from tests.launch.test_dry_runs import CASES, TARGETS, no_records  # noqa: F401

pytestmark = pytest.mark.slow
HOW = "then: pytest -m slow tests/launch/test_real_tools.py"
needs_gcloud = pytest.mark.skipif(
    shutil.which("gcloud") is None,
    reason=f"needs the Google Cloud CLI (cloud.google.com/sdk/docs/install), {HOW}",
)
needs_xpk = pytest.mark.skipif(
    shutil.which("xpk") is None, reason=f"needs XPK (pip install xpk), {HOW}"
)


def said_to_gcloud() -> list[tuple[str, ...]]:
    texts = [dry(*case) for case in CASES.values()]
    texts += [
        dry(*place, f"--{action}")
        for place in TARGETS.values()
        for action in ("logs", "status", "stop", "delete")
    ]
    found = set()
    for text in texts:
        for line in without_files(text).replace("\\\n", " ").splitlines():
            if "gcloud" in line and not line.startswith("#"):
                found |= set(calls(line))
    return sorted(found)


def calls(line: str) -> list[tuple[str, ...]]:
    """Returns the calls of gcloud in a line of bash, those within "$( )" too."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
    lexer.whitespace_split, lexer.commenters = True, ""
    found, group = [], []
    for word in [*lexer, ";"]:
        if set(word) <= set("();<>|&"):
            # "2 >" is what "2>" has become.
            group = group[:-1] if word.startswith(">") and group[-1:] == ["2"] else group
            if "gcloud" in group and "echo" not in group:
                found.append(tuple(group[group.index("gcloud") :]))
            group = []
            continue
        group.append(word)
        if "$(gcloud" in word:
            found += calls(word[word.index("$(") + 2 : word.rindex(")")])
    return found


def judge(words: tuple[str, ...], folder) -> str:
    environment = os.environ | {
        "CLOUDSDK_CONFIG": str(folder),
        "CLOUDSDK_CORE_DISABLE_PROMPTS": "1",
    }
    done = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=120)
    return done.stderr


@needs_gcloud
def test_gcloud_knows_all_our_flags(tmp_path):
    # Runs differ in their names alone.
    kinds = {tuple(w.replace("small", "big").replace("ours", "big") for w in words)
             for words in said_to_gcloud()}  # fmt: skip
    assert len(kinds) > 12
    for words in sorted(kinds):
        assert "do not currently have an active account" in judge(words, tmp_path), words


@needs_gcloud
def test_an_unknown_flag_would_be_found(tmp_path):
    words = ("gcloud", "compute", "tpus", "queued-resources", "list", "--zone=z", "--bogus")
    assert "unrecognized arguments" in judge(words, tmp_path)


@needs_xpk
@pytest.mark.parametrize("case", ["gke_own_cluster", "gke_their_cluster"])
def test_xpk_knows_all_our_flags(case, tmp_path):
    texts = [dry(*CASES[case])]
    place = TARGETS["gke" if case == "gke_own_cluster" else "gke_their_cluster"]
    texts += [dry(*place, f"--{action}") for action in ("status", "stop", "delete")]
    found = [words for text in texts for words in commands(text, "xpk")]
    assert len(found) >= 4
    for words in found:
        words = [word.replace("$folder", str(tmp_path)) for word in words]
        if "--wait-for-job-completion=big" in words:
            continue  # waits for a job, dry or not
        done = subprocess.run(
            [*words, "--dry-run", "--skip-validation"], capture_output=True, text=True, timeout=120
        )
        assert done.returncode == 0, (words, done.stderr[-1000:])
