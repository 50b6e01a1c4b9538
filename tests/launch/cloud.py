"""A pretended Google Cloud: programs of its names on PATH, and homes of workers in a folder."""

from __future__ import annotations

import json
import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

from launch import cli

# What stands for `openseg` on a worker: it tells what it was called with, and ends as told.
OPENSEG = """#!@PYTHON@ -S
import json, os, sys, time
home = os.environ["HOME"]
with open(os.path.join(home, "openseg_calls.jsonl"), "a") as calls:
    calls.write(json.dumps([sys.argv[1:], os.environ.get("JAX_PLATFORMS"), os.getcwd()]) + "\\n")
os.makedirs("../work", exist_ok=True)
codes = open(os.environ["FAKE_CLOUD"] + "/codes").read().split()
tries = len(open(os.path.join(home, "openseg_calls.jsonl")).readlines())
print("trained", flush=True)
code = codes[min(tries, len(codes)) - 1]
while code == "wait" and os.path.exists(home):
    time.sleep(0.05)
sys.exit(int(code) if code != "wait" else 1)
"""


class Cloud:
    """One test's cloud.

    Attributes:
        folder: with all that it knows.
        capture: pytest's capfd.
    """

    def __init__(self, folder: Path, pins: Path, monkeypatch: Any, capture: Any) -> None:
        self.folder = folder
        programs, image = folder / "bin", folder / "image"
        programs.mkdir(parents=True)
        fake = Path(__file__).with_name("fake_gcloud.py")
        self._program(programs / "gcloud", f'#!/bin/sh\nexec {sys.executable} -I -S {fake} "$@"\n')
        # Nothing here needs the time that scripts give the world.
        self._program(programs / "sleep", f"#!/bin/sh\nexec {shutil.which('sleep')} 0.15\n")
        # A worker where the environment is installed already: installing takes a network.
        for run in ("big", "small"):
            home = image / "openseg_runs" / run
            (home / "tools" / "bin").mkdir(parents=True)
            (home / "env" / "bin").mkdir(parents=True)
            self._program(home / "tools" / "bin" / "uv", '#!/bin/sh\necho uv "$@"\n')
            self._program(home / "env" / "bin" / "python", "#!/bin/sh\necho python $*\n")
            self._program(
                home / "env" / "bin" / "openseg", OPENSEG.replace("@PYTHON@", sys.executable)
            )
            stamp = subprocess.run(
                ["cksum"], input=pins.read_bytes(), capture_output=True, check=True
            ).stdout.decode().strip()  # fmt: skip
            (home / "env" / "installed").write_text(f"3.12 {stamp}\n")
        self.capture = capture
        monkeypatch.setenv("PATH", f"{programs}{os.pathsep}{os.environ['PATH']}")
        monkeypatch.setenv("FAKE_CLOUD", str(folder))
        monkeypatch.setenv("OPENSEG_LAUNCH_HOME", str(folder / "records"))
        monkeypatch.setenv("HOME", str(folder / "home"))
        (folder / "home").mkdir()
        self.ends_with("0")

    def program(self, name: str, text: str) -> None:
        """Puts a program on PATH."""
        self._program(self.folder / "bin" / name, text)

    def ends_with(self, codes: str, *, on_another_tpu: str = "") -> None:
        """Says how tries of the command end: codes, or "wait" for one that goes on for ever."""
        (self.folder / "codes").write_text(codes)
        if on_another_tpu:
            (self.folder / "codes_after").write_text(on_another_tpu)

    @staticmethod
    def _program(file: Path, text: str) -> None:
        file.write_text(text)
        file.chmod(file.stat().st_mode | stat.S_IXUSR)

    def launch(self, *argv: str, code: int = 0) -> str:
        """Runs `python -m launch`; returns what it says, and fails where the code is another."""
        self.capture.readouterr()
        got = cli.main(list(argv))
        text = "".join(self.capture.readouterr())
        assert got == code, f"code {got}:\n{text}"
        return text

    def calls(self, *start: str) -> list[list[str]]:
        """Returns the calls of gcloud that began with these words."""
        file = self.folder / "calls.jsonl"
        lines = file.read_text().splitlines() if file.exists() else []
        return [x for x in map(json.loads, lines) if tuple(x[: len(start)]) == start]

    def state(self) -> str:
        """Returns the request's state, or ""."""
        file = self.folder / "state"
        return file.read_text() if file.exists() else ""

    def trained(self, worker: int = 0) -> list[list]:
        """Returns argv, platforms and folder of each call of `openseg` on a worker."""
        file = self.folder / "workers" / str(worker) / "openseg_calls.jsonl"
        return [json.loads(x) for x in file.read_text().splitlines()] if file.exists() else []
