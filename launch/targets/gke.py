"""TPUs of a GKE cluster through XPK, which turns a command into a queued job on all hosts.

Flags are those of xpk 1.16 (`xpk workload create --help`, `xpk cluster create --help`). XPK lays
a folder over a base image, so that nobody has to build one; the job installs the pins when it
starts. Unless a cluster is named, one of the run's name is made, and deleted with it.
"""

from __future__ import annotations

from launch.bash import command, flags, indented, say, script
from launch.machine import Machine
from launch.run import Run
from launch.targets.bundle import TEMPORARY, bundle, openseg
from launch.targets.tpu_vm import ENVIRONMENT
from openseg_jax.errors import UserError

# Seconds between the notice and the end of a pod, in which it saves.
GRACE = 300


def start(run: Run) -> str:
    """Makes the cluster, unless one was named, and queues the job."""
    return script(
        TEMPORARY,
        bundle(run, machine(run), "tpu"),
        "" if run.cluster else _make_cluster(run),
        _reach(run),
        _queue(run),
        _afterwards(run),
        _watch(run) if run.watch else "",
        purpose=f"Run {run.name} on GKE cluster {_cluster(run)}. Running this again is fine.",
    )


def logs(run: Run) -> str:
    """Follows the log of one host."""
    follow = command(
        "kubectl", "logs", "--follow", "--tail=200", "--all-containers", "--prefix",
        f"--selector={_pods(run)},batch.kubernetes.io/job-completion-index={run.worker}",
    )  # fmt: skip
    return script(_reach(run), follow)


def status(run: Run) -> str:
    """Says what the queue and the pods do."""
    return script(
        _reach(run),
        _xpk(run, "workload", "list", f"--filter-by-job={run.name}"),
        command("kubectl", "get", "pods", f"--selector={_pods(run)}", "--output=wide"),
    )


def stop(run: Run) -> str:
    """Deletes the job; its pods save a last checkpoint. A cluster stays, and costs."""
    return script(
        _xpk(run, "workload", "delete", f"--workload={run.name}", "--force"),
        say(
            f"Cluster {_cluster(run)} still has its nodes, and they cost"
            + ("." if run.cluster else "; --delete ends that.")
        ),
    )


def delete(run: Run) -> str:
    """Deletes the job, and the cluster if the run made it."""
    if run.cluster:
        what = [
            _xpk(run, "workload", "delete", f"--workload={run.name}", "--force"),
            say(f"Deleted: the job {run.name}. Cluster {run.cluster} is not the launcher's: its")
            + "\n"
            + say("nodes cost as long as they are there. To delete it as well:")
            + "\n"
            + say(f"  {_xpk(run, 'cluster', 'delete', fold=False)}"),
        ]
    else:
        what = [
            _xpk(run, "cluster", "delete", "--force"),
            say(f"Deleted: the cluster {run.name} with its nodes and jobs."),
        ]
    place = " ".join(flags((("--project", run.project),)))
    return script(
        *what,
        "\n".join([
            say("To check that no node is left:"),
            say(f"  gcloud container clusters list {place}"),
            say(f"  gcloud compute instances list {place}"),
            say("Container images and checkpoints in gs:// stay, and cost storage."),
        ]),
    )  # fmt: skip


def machine(run: Run) -> Machine:
    """Returns what each pod does; Kubernetes starts all again when one fails."""
    assert run.accelerator is not None
    return Machine(
        processes=[openseg(run, several=run.accelerator.several_hosts)],
        environment=ENVIRONMENT,
        python=run.python,
        restarts=0,
        log="/dev/stdout",
        bucket=run.line.bucket,
    )


def _cluster(run: Run) -> str:
    return run.cluster or run.name


def _pods(run: Run) -> str:
    return f"jobset.sigs.k8s.io/jobset-name={run.name}"


def _place(run: Run) -> list[str]:
    return flags((("--project", run.project), ("--zone", run.zone)))


def _xpk(run: Run, noun: str, verb: str, *more: str, fold: bool = True) -> str:
    argv = ("xpk", noun, verb, f"--cluster={_cluster(run)}", *_place(run), *more)
    return command(*argv) if fold else " ".join(argv)


def _type(run: Run) -> str:
    assert run.accelerator is not None
    return run.accelerator.cloud


def _capacity(run: Run) -> str:
    if run.capacity == "reserved":
        if not run.reservation:
            raise UserError(
                "--reserved: XPK expects the reservation's name, got none; "
                "add it: --reserved RESERVATION"
            )
        return f"--reservation={run.reservation}"
    return f"--{run.capacity}"


def _make_cluster(run: Run) -> str:
    there = command(
        "gcloud", "container", "clusters", "list", f"--project={run.project}",
        f"--filter=name={run.name}", "--format=value(name)",
    )  # fmt: skip
    make = _xpk(
        run, "cluster", "create", f"--tpu-type={_type(run)}", "--num-slices=1", _capacity(run),
        *run.extra,
    )  # fmt: skip
    return (
        "# Its nodes cost from now on, whether a job runs or not.\n"
        f'if [ -z "$({there})" ]; then\n{indented(make, 2)}\nfi'
    )


def _reach(run: Run) -> str:
    where = command(
        "gcloud", "container", "clusters", "list", f"--project={run.project}",
        f"--filter=name={_cluster(run)}", "--format=value(location)",
    )  # fmt: skip
    words = command(
        "gcloud", "container", "clusters", "get-credentials", _cluster(run),
        f"--project={run.project}",
    )  # fmt: skip
    return f'{words} \\\n  --location="$({where})"'


def _queue(run: Run) -> str:
    # XPK restarts on codes 42 and 127 to 255 by default: 143 is a tidy end before the work is done.
    # 1 is a crash. 2, a mistake in what was given, is not tried again.
    options = [
        f"--workload={run.name}", f"--tpu-type={_type(run)}", "--num-slices=1",
        f"--max-restarts={run.restarts}", "--restart-on-exit-codes=1",
        f"--termination-grace-period-seconds={GRACE}",
    ]  # fmt: skip
    if run.cluster:
        options += [*run.extra]
    options += ["--base-docker-image=python:" + run.python]
    create = _xpk(run, "workload", "create", *options)
    return _guard(
        run,
        f'{create} \\\n  --script-dir="$folder" \\\n  '
        + command("--command=bash machine.sh setup && exec bash machine.sh run"),
    )


def _guard(run: Run, create: str) -> str:
    look = command("kubectl", "get", "jobset", run.name)
    return f"""if {look} > /dev/null 2>&1; then
  echo "Job {run.name} is queued or runs already; --stop removes it."
else
{indented(create, 2)}
fi"""


def _afterwards(run: Run) -> str:
    same = f"python -m launch gke --name {run.name}"
    return f"{say(f'Queued. Follow it: {same} --logs')}\n{_costs(run)}"


def _costs(run: Run) -> str:
    cost = f"The nodes of cluster {_cluster(run)} cost as long as they are there"
    same = f"python -m launch gke --name {run.name}"
    return say(f"{cost}." if run.cluster else f"{cost}: {same} --delete")


def _watch(run: Run) -> str:
    wait = _xpk(run, "workload", "list", f"--wait-for-job-completion={run.name}")
    wait = f"""if ! {wait}; then
  echo "The job has not ended well."
{indented(_costs(run), 2)}
  exit 1
fi"""
    if not run.delete_after:
        return wait
    body = delete(run).split("set -euo pipefail\n\n", 1)[1].rstrip("\n")
    return f"{wait}\n\n{body}"
