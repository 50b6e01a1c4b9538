"""`machine.sh`, run for real with small programs."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time

import pytest

from launch.machine import PORT, Machine

ODD = [
    "", " ", "a b", "it's", '"quoted"', "$HOME", "${x}", "$(id)", "`id`", "*", "?", "[a]", "~",
    "!", "#x", "a\nb", "\\", "a\\", ";", "&&", "|", ">", "{1,2}", "é✓", "END_OF_FILE", "-x", "%d",
    "a=b c", "x:$port", "\t", "@PYTHON@",
]  # fmt: skip


def test_odd_values_reach_the_program_as_they_are(tmp_path):
    tell = "import json, sys; print(json.dumps(sys.argv[1:]))"
    machine = Machine(
        processes=[(sys.executable, "-S", "-c", tell, *ODD)],
        environment={"ODD": "a b$'\"*"},
        python="",
        folder="in here",
        restarts=0,
    )
    (tmp_path / "in here").mkdir()
    (tmp_path / "machine.sh").write_text(machine.script(), encoding="utf-8")
    subprocess.run(["bash", str(tmp_path / "machine.sh"), "run"], check=True)
    lines = (tmp_path / "log.txt").read_text(encoding="utf-8").splitlines()
    assert json.loads(lines[1]) == ODD
    assert (tmp_path / "exit").read_text() == "0\n"


def test_processes_share_a_free_port(tmp_path):
    tell = "import sys; print(sys.argv[1:])"
    words = (sys.executable, "-c", tell, f"localhost{PORT}")
    machine = Machine(processes=[words] * 2, environment={}, python="", folder=".")
    (tmp_path / "machine.sh").write_text(machine.script(), encoding="utf-8")
    subprocess.run(["bash", str(tmp_path / "machine.sh"), "run"], check=True)
    first = (tmp_path / "log.txt").read_text().splitlines()[1]
    assert first == (tmp_path / "log_1.txt").read_text().strip()
    assert 1024 <= int(first.split(":")[1].rstrip("']")) <= 65535


def python(code: str, **more) -> Machine:
    return Machine(
        processes=[(sys.executable, "-S", "-c", code)],
        environment={},
        python="",
        folder=".",
        pause=0,
        **more,
    )


def run(folder, machine: Machine) -> int:
    (folder / "machine.sh").write_text(machine.script(), encoding="utf-8")
    return subprocess.run(["bash", str(folder / "machine.sh"), "run"]).returncode


_ONE = pytest.param(1, 4, marks=pytest.mark.slow)


@pytest.mark.parametrize(("code", "tries"), [(0, 1), (2, 1), _ONE, (143, 4)])
def test_what_is_tried_again(tmp_path, code, tries):
    assert run(tmp_path, python(f"print('hello'); raise SystemExit({code})", restarts=3)) == code
    assert (tmp_path / "log.txt").read_text().count("hello") == tries
    assert (tmp_path / "exit").read_text() == f"{code}\n"


def test_when_one_process_fails_the_others_do_not_stay(tmp_path):
    quick = (sys.executable, "-S", "-c", "raise SystemExit(3)")
    slow = (sys.executable, "-S", "-c", "import time; time.sleep(3600)")
    machine = Machine([slow, quick], {}, "", folder=".", restarts=0)
    (tmp_path / "sleep").write_text("#!/bin/sh\n/bin/sleep 0.02\n")
    (tmp_path / "sleep").chmod(0o755)
    text = machine.script().replace("sleep 1\n", f"{tmp_path}/sleep\n")
    (tmp_path / "machine.sh").write_text(text)
    # Long before the other would end by itself.
    done = subprocess.run(["bash", str(tmp_path / "machine.sh"), "run"], timeout=900)
    assert done.returncode == 3


def test_a_machine_that_is_taken_is_not_the_end_of_the_run(tmp_path):
    (tmp_path / "machine.sh").write_text(python("import time; time.sleep(600)").script())
    child = subprocess.Popen(["bash", str(tmp_path / "machine.sh"), "run"])
    while not (tmp_path / "log.txt").exists():
        assert child.poll() is None
        time.sleep(0.05)
    child.send_signal(signal.SIGTERM)
    assert child.wait(300) == 143
    assert not (tmp_path / "exit").exists()


def test_a_container_says_all_and_ends_on_request(tmp_path):
    # As GKE runs it: to the standard output, with SIGTERM before the pod goes.
    tidy = (
        "import signal, sys, time\n"
        "signal.signal(signal.SIGTERM, lambda *_: (print('saved'), sys.exit(0)))\n"
        "print('training', flush=True)\n"
        "time.sleep(600)"
    )
    machine = python(tidy, restarts=0, log="/dev/stdout")
    (tmp_path / "machine.sh").write_text(machine.script(), encoding="utf-8")
    line = "bash machine.sh setup && exec bash machine.sh run"
    child = subprocess.Popen(
        ["bash", "-c", f"({line}) & wait_for=$!; trap 'kill -TERM $wait_for' TERM; "
         "while kill -0 $wait_for 2>/dev/null; do sleep 0.1; done; wait $wait_for"],
        cwd=tmp_path, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert child.stdout is not None
    while "training" not in child.stdout.readline():
        assert child.poll() is None
    child.send_signal(signal.SIGTERM)
    rest, _ = child.communicate(timeout=300)
    assert "saved" in rest and child.returncode == 143


def test_a_run_just_started_is_alive_to_everyone(tmp_path):
    # It writes its number while others read it: `wait` once found the file empty and gave up.
    text = python("import time; time.sleep(0.5)").script().replace("sleep 1\n", "sleep 0.1\n")
    late = text.replace("  pids=()\n  trap", "  sleep 0.5\n  pids=()\n  trap")
    assert late != text
    (tmp_path / "machine.sh").write_text(late)
    machine = ("bash", str(tmp_path / "machine.sh"))
    subprocess.run([*machine, "start"], check=True)
    assert subprocess.run([*machine, "wait"], stdout=subprocess.DEVNULL).returncode == 0
    assert "ended with code 0" in subprocess.check_output([*machine, "status"], text=True)


def test_a_number_is_never_seen_half_written(tmp_path):
    text = python("pass").script()
    assert "> pid\n" not in text and "mv -f pid.new pid" in text
    # Frozen between the two steps, a run that was known before is known still.
    (tmp_path / "machine.sh").write_text(text.replace("mv -f pid.new pid", "exit 9"))
    (tmp_path / "pid").write_text(f"{os.getpid()}\n")
    assert subprocess.run(["bash", str(tmp_path / "machine.sh"), "run"]).returncode == 9
    said = subprocess.check_output(["bash", str(tmp_path / "machine.sh"), "status"], text=True)
    assert "running |" in said


@pytest.mark.parametrize("heard", [True, False])
def test_asked_to_stop_at_birth_it_stops(tmp_path, heard):
    slow = python("print('born', flush=True); import time; time.sleep(600)").script()
    text = slow.replace("start_processes\n    #", "kill -TERM $$\n    start_processes\n    #")
    assert text != slow
    if not heard:  # bash drops what reaches a shell that it is just forking
        text, whole = text.replace("[ -e stopped ] && end\n", ":\n"), text
        assert text != whole
    (tmp_path / "machine.sh").write_text(text)
    subprocess.run(["bash", str(tmp_path / "machine.sh"), "run"], timeout=300)
    assert (tmp_path / "stopped").exists()
    log = (tmp_path / "log.txt").read_text()
    assert "ended with code 143" in log and "born" not in log


def test_a_request_to_stop_forgets_no_process(tmp_path):
    # It comes between a look at a process and the note that it runs.
    code = "open('born', 'w'); import time; time.sleep(2); print('done')"
    each = [(sys.executable, "-S", "-c", x) for x in (code, "pass")]
    both = Machine(each, {}, "", folder=".", restarts=0)
    ask = '{ kill() { :; }; command kill -TERM "$$"; unset -f kill; }'
    look = 'if kill -0 "$pid" 2>/dev/null; then\n'
    whole = both.script()
    text = whole.replace(look, f"{look}[ ! -e born ] || [ -e stopped ] || {ask}\n")
    assert text != whole
    (tmp_path / "machine.sh").write_text(text)
    subprocess.run(["bash", str(tmp_path / "machine.sh"), "run"], timeout=300)
    assert (tmp_path / "stopped").exists()
    assert "done" in (tmp_path / "log.txt").read_text()


def test_who_waits_is_shown_the_log_to_its_end(tmp_path):
    tail = shutil.which("tail")
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "tail").write_text(
        f'#!/bin/sh\nuntil [ -e exit ]; do sleep 0.05; done; sleep 1\nexec {tail} "$@"\n'
    )
    (tmp_path / "bin" / "tail").chmod(0o755)
    text = python("print('one'); print('two', end='')").script().replace("sleep 1\n", "sleep 0.1\n")
    (tmp_path / "machine.sh").write_text(text)
    machine = ("bash", str(tmp_path / "machine.sh"))
    subprocess.run([*machine, "start"], check=True)
    slow = os.environ | {"PATH": f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}"}
    said = subprocess.check_output([*machine, "wait"], text=True, env=slow)
    assert said == (tmp_path / "log.txt").read_text() and said.endswith("ended with code 0\n")
    assert said.count("two") == 1


def test_an_ended_run_is_over_though_nobody_collects_its_process(tmp_path):
    (tmp_path / "machine.sh").write_text(python("print('hello')").script())
    machine = ("bash", str(tmp_path / "machine.sh"))
    child = subprocess.Popen([*machine, "run"])
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    os.kill(child.pid, 0)  # known still
    assert "ended with code 0" in subprocess.check_output([*machine, "status"], text=True)
    assert subprocess.run([*machine, "wait"], timeout=300).returncode == 0
    assert child.wait() == 0
