"""Every command of launch/README.md is one that the launcher takes."""

import re
import shlex

import pytest

from launch.run import ROOT
from launch.targets import TARGETS
from tests.launch.scripts import check_syntax, dry

TEXT = (ROOT / "launch" / "README.md").read_text(encoding="utf-8")
BLOCKS = "\n".join(re.findall(r"^```bash\n(.*?)^```", TEXT, re.S | re.M)).replace("\\\n", " ")
COMMANDS = sorted(
    tuple(shlex.split(line, comments=True)[3:])
    for line in BLOCKS.splitlines()
    if re.match(r"python -m launch \w", line)
)


@pytest.fixture(autouse=True)
def no_records(tmp_path, monkeypatch):
    monkeypatch.setenv("OPENSEG_LAUNCH_HOME", str(tmp_path))


@pytest.mark.parametrize("argv", COMMANDS, ids=" ".join)
def test_commands(argv):
    cut = argv.index("--") if "--" in argv else len(argv)
    more = () if "--zone" in argv else ("--zone", "z")
    check_syntax(dry(*argv[:cut], *more, "--project", "p", *argv[cut:]))


def test_every_target_is_in_the_table():
    table = TEXT.split("## What to take when")[1].split("##")[0]
    for name in TARGETS:
        assert f"`{name} " in table


def test_no_price_is_invented():
    assert not re.search(r"[$€]\s?\d|\d\s?(USD|EUR)", TEXT)
