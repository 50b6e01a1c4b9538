"""Writes the pinned environments beside this file: what pip's resolver takes today, exactly.

    python launch/environments/make.py python3.11 python3.12     # all of them: minutes
    python launch/environments/make.py python3.12 --only tpu     # one accelerator

Nothing is installed. Each interpreter resolves for itself, because markers such as
`python_version < "3.12"` are those of the interpreter that runs pip.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent
ROOT = FOLDER.parents[1]
ACCELERATORS = ("tpu", "cuda12", "cuda13")
# What a training machine needs besides the accelerator: TensorBoard files, TFDS, gs://.
EXTRAS = ("train", "data", "gcs")


def requirement(accelerator: str) -> str:
    """Returns what is resolved: the checkout with its extras."""
    return f".[{','.join((accelerator, *EXTRAS))}]"


def resolve(python: str, accelerator: str) -> dict[str, Any]:
    """Asks pip what it would install; returns its report (version 1).

    Raises:
        SystemExit: where the interpreter is missing or nothing fits.
    """
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        command = [python, "-m", "pip", "install", "--dry-run", "--ignore-installed", "--quiet"]
        command += ["--report", str(report), requirement(accelerator)]
        try:
            done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        except OSError as error:
            raise SystemExit(
                f"{python}: {error.strerror}; name an interpreter that runs"
            ) from error
        if done.returncode:
            raise SystemExit(f"{python}, {accelerator}:\n{done.stderr.strip()[-2000:]}")
        return json.loads(report.read_text(encoding="utf-8"))


def pins(report: dict[str, Any]) -> list[str]:
    """Returns sorted `name==version` lines of all but the checkout itself."""
    found = {}
    for item in report["install"]:
        meta = item["metadata"]
        name = meta["name"].lower().replace("_", "-").replace(".", "-")
        if name != "openseg-jax":
            found[name] = f"{name}=={meta['version']}"
    return [found[name] for name in sorted(found)]


def render(report: dict[str, Any], python: str, accelerator: str, today: str) -> str:
    """Returns the text of a pinned environment, header included."""
    return (
        f"# Python {python}, {accelerator}: everything that {requirement(accelerator)!r} needs.\n"
        f"# Resolved on {today} by pip {report['pip_version']} on Linux x86_64. Made anew by:\n"
        f"#   python launch/environments/make.py python{python} --only {accelerator}\n"
    ) + "".join(f"{line}\n" for line in pins(report))


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("python", nargs="+", help="interpreters, one for each Python version")
    parser.add_argument("--only", choices=ACCELERATORS, action="append", help="all by default")
    args = parser.parse_args(argv)
    today = datetime.datetime.now(datetime.UTC).date().isoformat()
    for python in args.python:
        for accelerator in args.only or ACCELERATORS:
            report = resolve(python, accelerator)
            version = report["environment"]["python_version"]
            name = f"py{version.replace('.', '')}-{accelerator}.txt"
            text = render(report, version, accelerator, today)
            aside = FOLDER / f".{name}.new"
            aside.write_text(text, encoding="utf-8")
            os.replace(aside, FOLDER / name)
            print(f"{name}: {len(pins(report))} packages")
    return 0


if __name__ == "__main__":
    sys.exit(main())
