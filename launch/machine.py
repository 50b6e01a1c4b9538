"""`machine.sh`: the one script that sets up, runs, watches and stops a run on a machine.

It lies in the run's folder, beside `code.tar.gz` and `pins.txt`, and does everything relative to
that folder: the same script serves a TPU VM's worker, a container, a GPU box and this machine.
"""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Sequence

# Installed beside the environment, by whatever Python the machine has: uv fetches a newer one
# where that is too old (TPU VMs of Ubuntu 22.04 have 3.10), and `--target` needs no venv module.
UV = "uv==0.13.9"
# Where runs live below the home folder of a machine.
RUNS = "openseg_runs"
# Of `openseg`: done, and a mistake in what was given. Neither gets better by another try.
FINAL_CODES = "0|2"
# The end of a word, which nobody can type, that stands for a port found free at each try.
PORT = ":\0port"


@dataclasses.dataclass(frozen=True)
class Machine:
    """What `machine.sh` shall do.

    Attributes:
        processes: command lines (words), one a process; the first writes `log`.
        environment: variables of all of them.
        python: version of the pinned environment; "" installs nothing.
        folder: where the processes run.
        restarts: tries after a failed first one.
        log: file in the run's folder, or /dev/stdout where something else keeps it.
        bucket: gs:// folder that gets a copy of the log and of `work` every two minutes, or "".
        pause: seconds before another try, in which the other hosts notice and end.
    """

    processes: Sequence[Sequence[str]]
    environment: dict[str, str]
    python: str
    folder: str = "code"
    restarts: int = 10
    log: str = "log.txt"
    bucket: str = ""
    pause: int = 40

    def script(self) -> str:
        """Returns the text of `machine.sh`."""
        setup = SETUP_NOTHING
        if self.python:
            setup = SETUP.replace("@UV@", UV).replace("@PYTHON@", self.python)
        run = RUN.replace("@FINAL@", FINAL_CODES)
        parts = [HEAD, _values(self), setup, _processes(self), _mirror(self.bucket), run, VERBS]
        return "\n\n".join(part.strip("\n") for part in parts) + "\n"


HEAD = """
#!/usr/bin/env bash
# Usage: bash machine.sh setup|start|run|wait|status|logs|stop|clean   (by `python -m launch`)
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")" || exit 1
alive() { [ -s pid ] && kill -0 "$(cat pid)" 2>/dev/null; }
"""

SETUP_NOTHING = """
setup() { :; }
"""

SETUP = """
# Doing it twice is fine: packages are installed when the pins have changed, the code always.
setup() {
  set -e
  if alive; then
    echo "launch: $(hostname): runs already, with the code it was started with; stop it first"
    return
  fi
  wanted="@PYTHON@ $(cksum < pins.txt)"
  if [ "$(cat env/installed 2>/dev/null)" != "$wanted" ]; then
    free=$(df -Pk . | awk 'NR == 2 {print int($4 / 1048576)}')
    if [ "$free" -lt 10 ]; then
      echo "launch: $(hostname): $free GB free, 10 are needed; use a larger disk" >&2
      return 1
    fi
    python3 -m pip install --quiet --upgrade --target tools @UV@
    tools/bin/uv venv --quiet --clear --python @PYTHON@ env
    tools/bin/uv pip install --quiet --python env/bin/python --requirement pins.txt
    echo "$wanted" > env/installed
  fi
  rm -rf code.new
  mkdir code.new
  tar -xzf code.tar.gz -C code.new
  rm -rf code
  mv code.new code
  tools/bin/uv pip install --quiet --python env/bin/python --no-deps --reinstall ./code
  env/bin/python -c 'import jax, openseg_jax; print("launch: jax", jax.__version__, "is installed")'
}
"""

RUN = """
# Passes a request to stop on to the processes, which save a checkpoint and end.
end() {
  touch stopped
  # A name of its own: it may come in the middle of another loop over `pid`.
  for process in ${pids[@]+"${pids[@]}"}; do kill -TERM "$process" 2>/dev/null; done
}

# A shell that has just been forked loses signals until it has let go of our traps: it asks here
# before it becomes a process of the run.
wanted() { [ ! -e stopped ] || exit 143; }

# Waits for the processes; when one fails, the others get a minute, for they wait for it.
wait_for_all() {
  code=0
  left=60
  while :; do
    running=()
    for pid in "${pids[@]}"; do
      if kill -0 "$pid" 2>/dev/null; then
        running+=("$pid")
        continue
      fi
      wait "$pid"
      one=$?
      # 127: asked before.
      if [ "$one" -ne 0 ] && [ "$one" -ne 127 ] && [ "$code" -eq 0 ]; then code=$one; fi
    done
    [ "${#running[@]}" -eq 0 ] && return
    pids=("${running[@]}")
    if [ "$code" -ne 0 ]; then
      left=$((left - 1))
      [ "$left" -eq 0 ] && kill -KILL "${pids[@]}" 2>/dev/null
    fi
    sleep 1
  done
}

run() {
  rm -f exit stopped asked
  pids=()
  trap end TERM INT
  # From here on it can be stopped. Aside first: nobody who asks `alive` finds the file empty.
  echo $$ > pid.new
  mv -f pid.new pid
  fetch >> "$log" 2>&1 || { code=1; echo "$code" > exit; return "$code"; }
  keep >> "$log" 2>&1 &
  keeper=$!
  try=0
  while :; do
    echo "launch: $(date -u +%FT%TZ) try $try on $(hostname)" >> "$log"
    start_processes
    # Asked while they were being started: those that had no number yet have not heard.
    [ -e stopped ] && end
    wait_for_all
    echo "launch: $(date -u +%FT%TZ) ended with code $code" >> "$log"
    [ -e stopped ] && break
    case $code in @FINAL@) break ;; esac
    [ "$try" -ge "$restarts" ] && break
    try=$((try + 1))
    # The other hosts must notice, and end, before all can meet again.
    sleep "$pause" &
    wait "$!"
    [ -e stopped ] && break
  done
  # Ended on request, however tidily: not done. 143 is what the request alone would have given.
  [ -e stopped ] && code=143
  kill "$keeper" 2>/dev/null
  keep_once >> "$log" 2>&1
  # Without our asking, the machine is about to go: that is not the run's end.
  if [ ! -e stopped ] || [ -e asked ]; then echo "$code" > exit; fi
  return "$code"
}
"""

VERBS = """
# Prints what the log has beyond the `seen` bytes. A follower beside it would not know which line is
# the last, and lose it when it is ended too soon.
news() {
  size=$(wc -c < log.txt)
  [ "$size" -gt "$seen" ] || return 0
  tail -c "+$((seen + 1))" log.txt | head -c "$((size - seen))"
  seen=$size
}

case ${1:-} in
  setup) setup ;;
  run)
    run
    code=$?
    # The system may go on to know a process that has ended: in containers often nobody collects it.
    rm -f pid
    exit "$code"
    ;;
  start)
    if alive; then
      echo "launch: $(hostname): already running"
    else
      rm -f exit pid
      nohup bash machine.sh run > /dev/null 2>> log.txt < /dev/null &
      until alive || ! kill -0 "$!" 2>/dev/null; do sleep 0.1; done
      echo "launch: $(hostname): started"
    fi
    ;;
  status)
    if alive; then
      state="running"
    elif [ -s exit ]; then
      state="ended with code $(cat exit)"
    else
      state="not running"
    fi
    echo "$(hostname): $state | $(tail -n 1 log.txt 2>/dev/null)"
    ;;
  logs) touch log.txt && exec tail -n 200 -F log.txt ;;
  wait)
    touch log.txt
    seen=0
    while alive; do news; sleep 1; done
    news
    exit "$(cat exit 2>/dev/null || echo 1)"
    ;;
  stop)
    if alive; then
      touch asked
      kill -TERM "$(cat pid)"
      for _ in $(seq 120); do alive || break; sleep 1; done
      if alive; then
        echo "launch: $(hostname): still saving; ask again with --status"
      else
        echo "launch: $(hostname): stopped"
      fi
    else
      echo "launch: $(hostname): nothing runs"
    fi
    ;;
  clean)
    # What can be made again; logs and work folders are left alone.
    rm -rf env tools code code.new code.tar.gz
    echo "launch: $(hostname): removed environment and code; kept in $PWD: $(ls | xargs)"
    ;;
  *) echo "machine.sh: expected a verb of its first lines" >&2; exit 2 ;;
esac; exit  # on one line: a new copy of this file may lie here by now
"""


def _values(machine: Machine) -> str:
    lines = [f"log={machine.log}", f"restarts={machine.restarts}", f"pause={machine.pause}"]
    lines += [f"export {name}={shlex.quote(x)}" for name, x in machine.environment.items()]
    return "\n".join(lines)


def _processes(machine: Machine) -> str:
    lines = ["start_processes() {", "  pids=()"]
    if any(word.endswith(PORT) for argv in machine.processes for word in argv):
        free = "import socket; s = socket.socket(); s.bind(('', 0)); print(s.getsockname()[1])"
        lines.append(f"  port=$({shlex.join((machine.processes[0][0], '-c', free))})")
    for place, argv in enumerate(machine.processes):
        log = f'"$PWD/log_{place}.txt"' if place else '"$log"'
        line = " ".join(_word(word) for word in argv)
        line = f"wanted && cd {shlex.quote(machine.folder)} && exec {line}"
        lines.append(f"  ({line}) >> {log} 2>&1 &")
        lines.append('  pids+=("$!")')
    return "\n".join([*lines, "}"])


def _word(word: str) -> str:
    # The one variable that a command line may hold; all else is taken as it stands.
    if word.endswith(PORT):
        return f'{shlex.quote(word.removesuffix(PORT))}:"$port"'
    return shlex.quote(word)


def _mirror(bucket: str) -> str:
    if not bucket:
        return "fetch() { :; }\nkeep_once() { :; }\nkeep() { :; }"
    mirror, where = "env/bin/python code/launch/mirror.py", shlex.quote(bucket)
    return f"""# The disk goes with the machine; log, metrics and model shall not.
fetch() {{
  for _ in 1 2 3 4 5; do
    {mirror} fetch work {where} && return
    sleep 20
  done
  return 1
}}
keep_once() {{ {mirror} keep work {where} --log log.txt || true; }}
keep() {{ while sleep 120; do keep_once; done; }}"""
