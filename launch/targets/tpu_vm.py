"""TPU VMs of Google Cloud, asked for as a queued resource, driven over ssh.

The flags are those of cloud.google.com/sdk/gcloud/reference/compute/tpus/queued-resources/create,
…/queued-resources/delete and …/tpu-vm/{ssh,scp}. A request whose TPU was preempted is SUSPENDED
and "no longer eligible for further allocation" (docs.cloud.google.com/tpu/docs/queued-resources):
it is deleted and made anew.
"""

from __future__ import annotations

from launch.bash import command, flags, indented, say, script, words
from launch.machine import Machine
from launch.run import Run
from launch.targets.bundle import TEMPORARY, bundle, openseg, remote
from openseg_jax.errors import UserError

# A TPU that cannot be opened is an error; without this JAX would quietly train on the CPU.
ENVIRONMENT = {"JAX_PLATFORMS": "tpu,cpu"}


def start(run: Run) -> str:
    """Asks for the TPU, waits for it, sets all workers up, starts the command on all of them."""
    return script(
        TEMPORARY,
        bundle(run, machine(run), "tpu"),
        _state(run),
        _request(run),
        _wait(run),
        _begin(run),
        _watch(run) if run.watch else _once(run),
        purpose=f"Run {run.name} on a {_slice(run)}, {run.capacity}. Running this again is fine.",
    )


def logs(run: Run) -> str:
    """Follows one worker's log."""
    return script(_ssh(run, remote(run, "logs"), worker=str(run.worker)))


def status(run: Run) -> str:
    """Says the request's state, and what each worker does."""
    return script(
        _state(run),
        f'echo "request {run.name}: $(state)"',
        f'if [ "$(state)" = ACTIVE ]; then\n{_ssh(run, remote(run, "status"), indent="  ")}\nfi',
    )


def stop(run: Run) -> str:
    """Stops the command on all workers; the TPU stays, and costs."""
    return script(
        _ssh(run, remote(run, "stop")),
        say(f"The TPU {run.name} is still yours and costs; --delete ends that."),
    )


def delete(run: Run) -> str:
    """Deletes the request and its TPU."""
    return script(_state(run), _delete_and_prove(run))


def machine(run: Run) -> Machine:
    """Returns what each worker does."""
    assert run.accelerator is not None
    return Machine(
        processes=[openseg(run, several=run.accelerator.several_hosts)],
        environment=ENVIRONMENT,
        python=run.python,
        restarts=run.restarts,
        bucket=run.line.bucket,
    )


def _slice(run: Run) -> str:
    assert run.accelerator is not None
    if not run.accelerator.runtime:
        raise UserError(
            f"--type: expected a TPU with TPU VMs, got {run.accelerator.name}; "
            "Google Cloud gives these through Kubernetes only: python -m launch gke"
        )
    return run.accelerator.name


def _place(run: Run) -> list[str]:
    return flags((("--project", run.project), ("--zone", run.zone)))


def _state(run: Run) -> str:
    # A list tells "there is none" (nothing) from "cannot tell" (an error); describe does not.
    ask = words(
        "gcloud", "compute", "tpus", "queued-resources", "list", *_place(run),
        f"--filter=name~(^|/){run.name}$", "--format=value(state.state)",
    )  # fmt: skip
    return f"""# ABSENT, UNKNOWN, or a state of cloud.google.com/tpu/docs/queued-resources
state() {{
  if found=$({ask}); then echo "${{found:-ABSENT}}"; else echo UNKNOWN; fi
}}"""


def _create(run: Run) -> str:
    assert run.accelerator is not None
    track, capacity = [], []
    if run.capacity == "spot":
        capacity = ["--spot"]
    elif run.reservation:
        # A named reservation: docs.cloud.google.com/tpu/docs/consume-reservation; alpha only.
        track, capacity = ["alpha"], [f"--reservation={run.reservation}"]
    elif run.capacity == "reserved":
        capacity = ["--reserved"]
    return command(
        "gcloud", *track, "compute", "tpus", "queued-resources", "create", run.name,
        f"--node-id={run.name}", *_place(run), f"--accelerator-type={run.accelerator.cloud}",
        f"--runtime-version={run.accelerator.runtime}", *capacity, *run.extra, indent="      ",
    )  # fmt: skip


def _delete(run: Run, indent: str = "") -> str:
    # Without --force only requests that hold no TPU can be deleted.
    return command(
        "gcloud", "compute", "tpus", "queued-resources", "delete", run.name,
        *_place(run), "--force", "--quiet", indent=indent,
    )  # fmt: skip


def _request(run: Run) -> str:
    return f"""request() {{
  case $(state) in
    FAILED | SUSPENDED | SUSPENDING)
      echo "The last request is over: it is deleted and made anew."
{_delete(run, "      ")}
      ;;
  esac
  case $(state) in
    ABSENT)
      # Refused outright (quota, permission, a wrong zone): asking again would not help.
{_create(run)} || exit 1
      ;;
    UNKNOWN) return 1 ;;
    *) echo "Asked for already: $(state)." ;;
  esac
}}"""


def _wait(run: Run) -> str:
    why = words(
        "gcloud", "compute", "tpus", "queued-resources", "describe", run.name, *_place(run),
        "--format=yaml(state)",
    )  # fmt: skip
    return f"""wait_until_active() {{
  echo "Waiting for the TPU; Ctrl-C is safe, the request stays in the queue (--delete removes it)."
  last=
  while :; do
    now=$(state)
    [ "$now" = "$last" ] || echo "$(date +%T) {run.name}: $now"
    last=$now
    case $now in
      ACTIVE) return 0 ;;
      FAILED | SUSPENDED | ABSENT)
        echo "It will not become ACTIVE. Why:"
{indented(why, 8)} || true
        return 1
        ;;
    esac
    sleep 30
  done
}}"""


def _begin(run: Run) -> str:
    # Spot machines can go away at any moment between two of these commands.
    copy = command(
        "gcloud", "compute", "tpus", "tpu-vm", "scp", "CODE", "PINS", "MACHINE",
        f"{run.name}:{run.folder}/", *_place(run), "--worker=all", "--quiet", indent="  ",
    )  # fmt: skip
    for name, file in (("CODE", "code.tar.gz"), ("PINS", "pins.txt"), ("MACHINE", "machine.sh")):
        copy = copy.replace(name, f'"$folder/{file}"')
    steps = [
        "  request",
        "  wait_until_active",
        "  reach",
        copy,
        _ssh(run, remote(run, "setup"), indent="  "),
        _ssh(run, remote(run, "start"), indent="  "),
    ]
    # A new machine takes a while to answer ssh.
    reach = f"""reach() {{
  for _ in 1 2 3 4 5 6 7 8; do
{_ssh(run, f"mkdir -p {run.folder}", indent="    ")} && return
    sleep 15
  done
  return 1
}}"""
    return reach + "\n\nbegin() {\n" + " &&\n".join(steps) + "\n}"


def _ssh(run: Run, line: str, *, worker: str = "all", indent: str = "") -> str:
    return command(
        "gcloud", "compute", "tpus", "tpu-vm", "ssh", run.name, *_place(run),
        f"--worker={worker}", "--quiet", f"--command={line}", indent=indent,
    )  # fmt: skip


def _watch(run: Run) -> str:
    # Marked, for gcloud has things to say of its own.
    look = f"echo exit=$(cat {run.folder}/exit 2> /dev/null)"
    done = _delete_and_prove(run) if run.delete_after else _still_costs(run)
    return f"""exit_code() {{
{_ssh(run, look, worker="0", indent="  ")} 2> /dev/null |
    sed -n 's/^exit=\\([0-9][0-9]*\\).*/\\1/p'
}}

# Stays until the command has ended; a preempted TPU is asked for again, and the command goes on
# from its last checkpoint. Interrupting this stops nothing; running it again takes over.
code=
failures=0
until [ -n "$code" ]; do
  if ! begin; then
    # With a TPU at hand the fault is elsewhere, and time costs.
    if [ "$(state)" = ACTIVE ]; then failures=$((failures + 1)); fi
    if [ "$failures" -ge 3 ]; then
      echo "Setting up has failed three times."
{indented(_still_costs(run), 6)}
      exit 1
    fi
    echo "$(date +%T) The TPU went away, or a step failed; again in a minute."
    sleep 60
    continue
  fi
  failures=0
  while [ -z "$code" ]; do
    case $(state) in ACTIVE | UNKNOWN) sleep 60 ;; *) break ;; esac
    code=$(exit_code) || code=
  done
done
if [ "$code" != 0 ]; then
  echo "The command ended with code $code."
{indented(_still_costs(run), 2)}
  exit "$code"
fi
echo "The command has ended well."
{done}"""


def _once(run: Run) -> str:
    same = f"python -m launch tpu-vm --name {run.name}"
    return f"""if ! begin; then
  echo "Not started. Mend what the lines above say, and run this again."
{indented(_still_costs(run), 2)}
  exit 1
fi
{say(f"Running. Follow it: {same} --logs")}
{_still_costs(run)}"""


def _still_costs(run: Run) -> str:
    return say(
        f"The TPU costs until you delete it: python -m launch tpu-vm --name {run.name} --delete"
    )


def _delete_and_prove(run: Run) -> str:
    where = " ".join(_place(run))
    return f"""case $(state) in
  ABSENT) echo "No request {run.name} is there (in this project and zone)." ;;
  UNKNOWN)
    echo "Google Cloud did not answer: nothing is deleted, and what runs costs. Try again." >&2
    exit 1
    ;;
  *)
{_delete(run, "    ")}
    echo "Deleted: the request {run.name} and its TPU."
    ;;
esac
echo "To check that nothing is left, both lists should be empty of {run.name}:"
echo "  gcloud compute tpus queued-resources list {where}"
echo "  gcloud compute tpus tpu-vm list {where}"
echo "Checkpoints in gs:// stay, and cost storage, until you remove them.\""""
