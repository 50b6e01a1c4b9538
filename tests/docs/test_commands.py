"""Every command of every page is one that its program takes; `test_runs.py` runs them."""

from __future__ import annotations

import re
import shlex

import pytest

from openseg_jax.cli.main import VERBS
from tests.docs.blocks import (
    LANGUAGES,
    PAGES,
    ROOT,
    Block,
    all_blocks,
    blocks_of,
    commands_of,
    spans_of,
)  # fmt: skip
from tests.docs.parsing import check_bash, check_command, check_python, extras_of_setup
from tests.docs.running import LIGHTER, PARSED, parsed_only, rules_for

BLOCKS = all_blocks()
SPANS = sorted(
    {
        (path.relative_to(ROOT).as_posix(), span)
        for path in PAGES
        for span in spans_of(path.read_text(encoding="utf-8"))
    }
)
# Blocks that a note excuses from being run. More than that would be an excuse for the harness.
MOST_PARSED_ONLY = 12


@pytest.fixture(autouse=True)
def no_records(tmp_path, monkeypatch):
    monkeypatch.setenv("OPENSEG_LAUNCH_HOME", str(tmp_path))


@pytest.mark.parametrize("block", BLOCKS, ids=str)
def test_block(block):
    assert block.language in LANGUAGES, f"{block}: name the language: {', '.join(LANGUAGES)}"
    if block.language == "bash":
        check_bash(block)
    elif block.language == "python":
        check_python(block.text)
    else:
        # Commands belong in blocks that are tested.
        assert not re.match(r"(openseg|pip|python|pytest) ", block.text), block


@pytest.mark.parametrize("page, span", SPANS)
def test_command_in_running_text(page, span):
    for command in commands_of(span):
        if len(command.words) == 2 and command.words[0] == "openseg":
            assert command.words[1] in VERBS  # the verb is named, not called
        else:
            check_command(command)


def test_there_are_pages_and_blocks():
    assert {"README.md", "docs/training.md", "launch/README.md"} <= {b.page for b in BLOCKS}
    for path in PAGES:
        # No fence escapes the pattern.
        text = path.read_text(encoding="utf-8")
        fences = len(re.findall(r"^[ \t]*(```|~~~)", text, re.MULTILINE))
        assert fences == 2 * len(blocks_of(text, "")), path


def test_few_blocks_are_parsed_only():
    excused = [block for block in BLOCKS if block.reason]
    print(*(f"{block}: {block.reason}" for block in excused), sep="\n")
    assert len(excused) <= MOST_PARSED_ONLY
    assert all(len(block.reason.split()) >= 3 for block in excused)


def test_most_commands_are_run_and_every_rule_has_its_use():
    found = [
        (block, command)
        for block in BLOCKS
        if block.language == "bash" and not block.reason
        for command in commands_of(block.text)
    ]
    whys = {f"{b}: {shlex.join(c.words)}": parsed_only(c.words) for b, c in found}
    print(*(f"{call}: {why}" for call, why in whys.items() if why), sep="\n")
    ours = [why for call, why in whys.items() if ": openseg " in call]
    assert sum(map(bool, ours)) <= len(ours) / 4
    texts = [" ".join(command.words) for _, command in found]
    for pattern, _ in PARSED:
        assert any(re.search(pattern, text) for text in texts), f"{pattern}: no command for it"
    for rule in LIGHTER:
        assert any(rule in rules_for(list(c.words)) for _, c in found), f"{rule.why}: no use"


def test_readme_s_two_commands_are_those_of_the_check_script():
    # They need a network or make an environment: .ci/run does both from a bare checkout.
    first, second = [b for b in BLOCKS if b.page == "README.md" and "pip install" in b.text][:2]
    script = (ROOT / ".ci/run").read_text(encoding="utf-8")
    installs = [c.words for b in (first, second) for c in commands_of(b.text)]
    assert installs[0][:2] == installs[2][:2] == ("pip", "install")
    assert '/bin/pip" install -q -e ".[$extras]"' in script
    assert "test" in re.search(r"^extras=(.*)$", script, re.M)[1].split(",")
    assert shlex.join(installs[1]) == "openseg demo" and '"$bin/openseg" demo' in script
    assert installs[3] == ("pytest",) and '"$bin/python" -m pytest' in script
    # What pip installs with ".[test]" has to be enough for what the page says next.
    assert "pytest>=8.0" in extras_of_setup()["test"]


# What a page must not say, and what has to be said about it.
WRONG_BASH = {
    "openseg segmnt photo.jpg": "did you mean",
    "openseg segment photo.jpg --label cat": "--labels",
    "openseg segment photo.jpg --labels cat --method clip_dense --crf on": "crf|refine",
    "openseg train --config clip_finetun --workdir x": "clip_finetune",
    "openseg train --config clip_finetune --workdir x --set optim.learningrate=1": "learning_rate",
    "openseg train --config configs/no.py --workdir x": "no file",
    "openseg evaluate --benchmark voc22": "voc",
    "openseg evaluate --benchmark voc21 --method cra": "car",
    "openseg plan --config clip_finetune --topology v5f-256": "v5",
    "openseg demo --imges 2": "--images",
    "python -m launch tpu-vm --name a --typ v5e-8 -- train --config clip_finetune --workdir x": "",
    "python -m launch tpu-vm --name a --type v5e-256 -- train --config no --workdir x": "",
    "python -m tests.benchmarks.bench_nothing": "no such module",
    "python -m tests.benchmarks.bench_crf --lables 4": "--labels",
    "python launch/nowhere.py": "nowhere",
    "pip install -e '.[tset]'": "test",
    "pytest -m slw": "marker",
    "pytest -k 'nothingofthename'": "nothingofthename",
    "opensegg demo": "no program",
    "openseg demo '": "",
    "# nothing": "without a command",
}
WRONG_PYTHON = (
    "from openseg_jax import segmnt",
    "import openseg_jax\nopenseg_jax.segmnt('photo.jpg', [])",
    "import openseg_jax.nothing",
    "import openseg_jax(",
)


@pytest.mark.parametrize("text", WRONG_BASH)
def test_a_wrong_command_fails(text):
    with pytest.raises(AssertionError, match=WRONG_BASH[text] or None):
        check_bash(Block("page.md", 1, "bash", text + "\n"))


@pytest.mark.parametrize("text", WRONG_PYTHON)
def test_wrong_python_fails(text):
    with pytest.raises((ImportError, AttributeError, AssertionError, SyntaxError)):
        check_python(text)


def test_commands_are_taken_apart_like_a_shell():
    text = (
        "A=1 openseg demo  # why\n$ openseg models && openseg gates \\\n  --seeds 1 &\n"
        'kill %1 ; wait\nopenseg train --set \'task.x=(("a/.*", False),)\' --set "p={0..3}.tar"\n'
    )
    found = commands_of(text)
    assert [c.words[0] for c in found] == ["openseg"] * 3 + ["kill", "wait", "openseg"]
    assert found[0].variables == ("A=1",)
    assert found[2].words == ("openseg", "gates", "--seeds", "1") and found[2].end == "&"
    assert found[-1].words[3] == 'task.x=(("a/.*", False),)'
    assert found[-1].words[5] == "p={0..3}.tar"


def test_notes_and_fences_are_found():
    page = "a\n<!-- parsed only: needs a TPU -->\n```bash\nopenseg demo\n```\n\n```\nx\n```\n"
    first, second = blocks_of(page, "p.md")
    assert (first.reason, first.language, first.line) == ("needs a TPU", "bash", 3)
    assert (second.reason, second.language) == ("", "")
    assert spans_of("`openseg demo` and `openseg VERB --help` and `x`") == ["openseg demo"]
