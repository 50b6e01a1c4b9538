"""A `gcloud` for tests: keeps a queued resource in a folder, and runs what ssh would send there.

FAKE_CLOUD    folder: calls.jsonl (every call), state (of the request), workers/N (home folders)
FAKE_WORKERS  how many workers a TPU has
FAKE_LOSES    states to go through after the first ACTIVE ones: "ACTIVE,ACTIVE,SUSPENDED"
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

CLOUD = Path(os.environ["FAKE_CLOUD"])
WORKERS = [CLOUD / "workers" / str(i) for i in range(int(os.environ.get("FAKE_WORKERS", "2")))]
STATE, LATER = CLOUD / "state", CLOUD / "later"


def main(words: list[str]) -> int:
    with (CLOUD / "calls.jsonl").open("a") as calls:
        calls.write(json.dumps(words) + "\n")
    options = dict(
        word[2:].split("=", 1) for word in words if word.startswith("--") and "=" in word
    )
    names = [word for word in words if not word.startswith("-")]
    if names[:3] == ["compute", "tpus", "queued-resources"]:
        return queued(names[3])
    if names[:3] == ["compute", "tpus", "tpu-vm"]:
        return vm(names[3], names[4:], options)
    if names[:2] == ["auth", "list"]:
        print("me@example.com")
    if names[:3] == ["storage", "buckets", "describe"]:
        print("MY")
    return 0


def queued(verb: str) -> int:
    if verb == "list":
        if (CLOUD / "down").exists():
            print("ERROR: no network", file=sys.stderr)
            return 1
        later = LATER.read_text().split(",") if LATER.exists() else []
        if STATE.exists() and later and STATE.read_text() == "ACTIVE":
            STATE.write_text(later[0])
            LATER.write_text(",".join(later[1:])) if later[1:] else LATER.unlink()
        print(STATE.read_text() if STATE.exists() else "", end="")
    elif verb == "create":
        if STATE.exists():
            print("ERROR: ALREADY_EXISTS", file=sys.stderr)
            return 1
        if os.environ.get("FAKE_QUOTA"):
            print("ERROR: RESOURCE_EXHAUSTED: quota", file=sys.stderr)
            return 1
        STATE.write_text("ACTIVE")
        if (loses := os.environ.get("FAKE_LOSES")) and not (CLOUD / "lost").exists():
            LATER.write_text(loses)
            (CLOUD / "lost").touch()
    elif verb == "delete":
        STATE.unlink()
        for home in WORKERS:
            # Gone at once, as a machine is; what still runs there ends when it looks around.
            if home.exists():
                home.rename(home.with_name(f"{home.name}.gone.{os.getpid()}"))
        if (CLOUD / "codes_after").exists():
            (CLOUD / "codes_after").replace(CLOUD / "codes")
    return 0


def vm(verb: str, names: list[str], options: dict[str, str]) -> int:
    if not STATE.exists() or STATE.read_text() != "ACTIVE":
        return 255
    chosen = WORKERS if options["worker"] == "all" else [WORKERS[int(options["worker"])]]
    codes = []
    for home in chosen:
        if not home.exists():
            shutil.copytree(CLOUD / "image", home)
        if verb == "scp":
            to = home / names[-1].partition(":")[2]
            codes.append(0 if all(shutil.copy(name, to) for name in names[:-1]) else 1)
        else:
            environment = os.environ | {"HOME": str(home)}
            command = ["bash", "-c", options["command"]]
            codes.append(subprocess.run(command, cwd=home, env=environment).returncode)
    return max(codes)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
