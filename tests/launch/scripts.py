"""Dry runs as text, and what stands in them."""

from __future__ import annotations

import contextlib
import io
import re
import shlex
import subprocess
import sys
from pathlib import Path

from launch import cli
from launch.run import ROOT


def dry(*argv: str) -> str:
    """Returns what `python -m launch ... --dry-run` prints; "--" separates as on a shell."""
    out = io.StringIO()
    cut = argv.index("--") if "--" in argv else len(argv)
    with contextlib.redirect_stdout(out):
        code = cli.main([*argv[:cut], "--dry-run", *argv[cut:]])
    assert code == 0
    return out.getvalue()


def neutral(text: str) -> str:
    """Returns a script without the names of this machine's folders."""
    for found, name in ((sys.executable, "PYTHON"), (str(ROOT), "CHECKOUT")):
        text = text.replace(found, name)
    return text.replace(str(Path.cwd()), "HERE")


def files(text: str) -> dict[str, str]:
    """Returns the files that a script writes, by name."""
    found = re.findall(r"^cat > \"\$folder/([^\"]+)\" <<'(\w+)'\n(.*?)^\2$", text, re.S | re.M)
    return {name: body for name, _, body in found}


def without_files(text: str) -> str:
    """Returns a script without the texts of the files that it writes."""
    return re.sub(r"^cat > .*? <<'(\w+)'\n.*?^\1$", "", text, flags=re.S | re.M)


def commands(text: str, *start: str) -> list[list[str]]:
    """Returns the command lines of a script that begin with `start`, as bash splits them."""
    joined = without_files(text).replace("\\\n", " ")
    found = []
    for line in joined.splitlines():
        place = line.find(" ".join(start))
        if place < 0 or (place and line[:place].strip() not in ("", "if !", "if")):
            continue
        # What follows an operator is another command; values are never bare operators.
        words = shlex.split(line[place:].removesuffix("; then"))
        ends = [i for i, word in enumerate(words) if word in ("&&", "||", "|", ";", "2>")]
        found.append(words[: ends[0]] if ends else words)
    return found


def check_syntax(text: str) -> None:
    """Fails where bash cannot parse a script or a script within."""
    scripts = [text, *(x for name, x in files(text).items() if not name.endswith(".txt"))]
    for script in scripts:
        done = subprocess.run(["bash", "-n"], input=script, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
