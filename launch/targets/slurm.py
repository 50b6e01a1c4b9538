"""GPUs of a SLURM cluster, from its login node: one process a GPU, which find one another.

JAX reads SLURM's variables itself and gives each process the GPU of its rank on the node
(jax.distributed.initialize). Options are those of slurm.schedmd.com/sbatch.html.
"""

from __future__ import annotations

import shlex

from launch.bash import command, here, remark, say, script, words
from launch.machine import Machine
from launch.run import Run
from launch.targets.bundle import bundle, inside, openseg, remote

ENVIRONMENT = {"JAX_PLATFORMS": "cuda,cpu"}
# Seconds before the time limit at which the processes are asked to save and end, at most.
NOTICE = 300
# Seconds that processes get after the first has ended: to save, or to notice that one is gone.
LINGER = 120


def start(run: Run) -> str:
    """Installs into the home folder, which the nodes share, and submits the job."""
    submit = command("sbatch", "--parsable", *run.extra) + ' --chdir="$folder" "$folder/job.sbatch"'
    return script(
        f'folder="$HOME"/{shlex.quote(run.folder)}\nmkdir -p "$folder"',
        f"{_job(run)}\n"
        'if [ -n "$job" ]; then\n'
        '  echo "Job $job of this name is queued or runs already; --stop ends it."\n'
        "  exit 0\n"
        "fi",
        bundle(run, machine(run), f"cuda{run.cuda}"),
        here(inside("job.sbatch"), job(run)),
        "# On the login node: nodes often cannot reach the internet.\n"
        f"(cd && {remote(run, 'setup')})",
        f'job=$({submit})\necho "Submitted job $job."\n'
        + say(f"Follow it: python -m launch slurm --name {run.name} --logs"),
        _watch(run) if run.watch else "",
        purpose=f"Run {run.name} on {_size(run)}. Running this again is fine.",
    )


def logs(run: Run) -> str:
    """Follows the job's log."""
    return script(f"cd && {remote(run, 'logs')}")


def status(run: Run) -> str:
    """Says what the queue knows, now and of the past."""
    return script(
        f'squeue --user="$(id -un)" --name={run.name} --long',
        command(
            "sacct", f"--name={run.name}", "--allocations",
            "--format=JobID,State,ExitCode,Elapsed,NodeList",
        )
        + " || true  # not all clusters keep accounts",
        f'tail -n 3 "$HOME"/{shlex.quote(run.folder)}/log.txt || true',
    )  # fmt: skip


def stop(run: Run) -> str:
    """Ends the job: its processes are asked to save first."""
    return script(
        f"{_job(run)}\n"
        'if [ -z "$job" ]; then\n  echo "No job of this name is queued or runs."\n  exit 0\nfi',
        # Without --batch the signal goes to the processes; the pending requeue is then taken back.
        f'touch "$HOME"/{shlex.quote(run.folder)}/stopped\n'
        f"{_cancel(run, '--signal=TERM')} || true\n"
        f"for _ in $(seq {NOTICE}); do\n"
        f'  [ -n "$({_ask(run)})" ] || break\n  sleep 1\ndone\n'
        f"{_cancel(run)} 2> /dev/null || true\n"
        'echo "Stopped job $job."',
    )


def delete(run: Run) -> str:
    """Cancels the job, which then holds no GPU, and frees the disk of what can be made again."""
    return script(
        f'{_job(run)}\nif [ -n "$job" ]; then\n  {_cancel(run)}\n  echo "Cancelled job $job."\nfi',
        f"cd && {remote(run, 'clean')}",
        "\n".join([
            say("To check that nothing is left, this should be empty:"),
            f'echo "  squeue --user=$(id -un) --name={run.name}"',
        ]),
    )  # fmt: skip


def machine(run: Run) -> Machine:
    """Returns the script that installs; the job itself runs `openseg`."""
    return Machine(processes=[_words(run)], environment=ENVIRONMENT, python=run.python)


def job(run: Run) -> str:
    """Returns the batch script."""
    options = [
        f"--job-name={run.name}",
        f"--nodes={run.nodes}",
        f"--ntasks-per-node={run.gpus}",
        f"--gpus-per-node={run.gpus}",
        *([f"--time={run.hours}"] if run.hours else []),
        "--output=log.txt",
        "--open-mode=append",
        "--requeue",
        # To the processes, not to this script: they save a checkpoint and end.
        f"--signal=TERM@{notice(run.hours)}",
    ]
    head = "".join(f"#SBATCH {option}\n" for option in options)
    values = "".join(f"export {k}={shlex.quote(v)}\n" for k, v in ENVIRONMENT.items())
    run_line = words(
        "srun", "--kill-on-bad-exit=0", f"--wait={LINGER}", "--chdir=code", *_words(run)
    )
    mirror = ""
    if bucket := run.line.bucket:
        keep = command("env/bin/python", "code/launch/mirror.py", "keep", "work", bucket)
        mirror = f"{keep} --log log.txt || true\n"
    return f"""#!/usr/bin/env bash
{head}set -uo pipefail
rm -f stopped
{values}try=${{SLURM_RESTART_COUNT:-0}}
echo "launch: $(date -u +%FT%TZ) job $SLURM_JOB_ID, try $try, on $SLURM_JOB_NODELIST"
{run_line}
code=$?
echo "launch: $(date -u +%FT%TZ) ended with code $code"
{mirror}{remark("Out of time or preempted: to the queue again, to go on from the last checkpoint.")}
case $code in
  0 | 2) ;;
  *)
    if [ ! -e stopped ] && [ "$try" -lt {run.restarts} ]; then
      scontrol requeue "$SLURM_JOB_ID"
    fi
    ;;
esac
exit "$code"
"""


def notice(limit: str) -> int:
    """Returns the seconds of notice: of a short trial a quarter, or it would end as it starts.

    Args:
        limit: as sbatch takes it: minutes, [hours:]minutes:seconds, days-hours[:minutes[:seconds]].
    """
    if not limit:
        return NOTICE
    days, dash, rest = limit.rpartition("-")
    parts = [int(part) for part in rest.split(":")]
    if dash or len(parts) == 3:
        hours, minutes, seconds = (*parts, 0, 0)[:3]
    else:
        hours, minutes, seconds = 0, *(*parts, 0)[:2]
    whole = ((int(days or 0) * 24 + hours) * 60 + minutes) * 60 + seconds
    # SLURM rounds a limit up to whole minutes.
    return min(NOTICE, max(60, whole) // 4)


def _words(run: Run) -> tuple[str, ...]:
    return openseg(run, several=run.nodes * run.gpus > 1)


def _watch(run: Run) -> str:
    return f"""touch "$folder/log.txt"
tail -n +1 -F "$folder/log.txt" &
follower=$!
while [ -n "$({_ask(run)})" ]; do sleep 20; done
kill "$follower"
{status(run).split("set -euo pipefail", 1)[1].strip()}"""


def _size(run: Run) -> str:
    return f"{run.nodes} node{'s' * (run.nodes > 1)} of {run.gpus} GPU{'s' * (run.gpus > 1)}"


def _ask(run: Run) -> str:
    return f'squeue --user="$(id -un)" --name={run.name} --noheader --format=%i'


def _cancel(run: Run, *more: str) -> str:
    return " ".join(("scancel", '--user="$(id -un)"', f"--name={run.name}", *more))


def _job(run: Run) -> str:
    return f"job=$({_ask(run)})"
