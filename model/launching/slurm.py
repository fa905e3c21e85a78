"""A job through Slurm: `python -m model.launching.slurm FOLDER HOST:PORT ARGUMENT...` is what each of its nodes runs.

The stage writes `slurm.sh` into the run's folder, submits it with `sbatch --wait` and writes the results when it has
ended. The job itself reads `job.json` and `runtime.json`, not params.yaml, which may change while it is in the queue.

- Time limit: Slurm sends TERM to the job's steps `save_seconds` before it (up to a minute earlier). The processes save
  a checkpoint, the nodes end with the code 75, and the script puts its job back into the queue.
- Lost node: Slurm ends the job and, for `--requeue`, puts it back into the queue.
- The stage ends, because its login node does: the job goes on. The stage, run again, submits another, which
  waits for the one before (`--dependency=singleton` and the name), finds its last checkpoint, and ends at once.

`sbatch --wait` asks for the state of the job, up to half a minute apart, and ends when that is final; a job that is
back in the queue is pending, so it waits on. srun answers TERM by killing its tasks at once: the signal must reach the
tasks and not srun, as it does by `--signal` without `B:`. The script has no trap, so `scancel` ends it for good.

All of this was seen with Slurm 22.05 and two of its nodes on one machine: a time limit, `scancel`, a lost node, a lost
stage. Not with GPUs, a network file system, cgroups or preemption. The tests have stand-ins for Slurm's commands.

submitit, which does the same for a pickled Python function, is not used: its handler of the warning signal wants the
process in which torch's agent has its own, and a script of ten lines can be read, and submitted by hand.
"""

import shlex
import subprocess
import sys
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

from model.job import Job, read_job
from model.launching import node
from model.launching.ranks import Follower
from model.launching.runtime import SlurmLaunch, TorchrunLaunch, read_runtime
from model.launching.signals import PAUSED
from model.launching.supervise import tell
from stages import runner
from stages.errors import UserError

_STOPPED = 75
"""Exit code of a node that was told to stop (EX_TEMPFAIL in sysexits.h)."""
_FINISHED = "finished"
"""File in the run's folder: sbatch ends well also for a job that was cancelled before it ran, this proves it did."""
_END_SECONDS = 120
"""What the other nodes get once one has ended: they end together, or wait for one that will not come back."""

_SCRIPT = """#!/bin/bash
{options}
first=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
if [ -n "${{SLURM_CPUS_PER_TASK:-}}" ]; then
    export SRUN_CPUS_PER_TASK="$SLURM_CPUS_PER_TASK"  # srun does not take it from the job
fi
srun --ntasks-per-node=1 --cpu-bind=none --unbuffered --wait={end_seconds} {command} "$first:{port}" {worker}
code=$?
if [ "$code" -eq {stopped} ]; then
    scontrol requeue "$SLURM_JOB_ID" && code=0
fi
exit "$code"
"""


def run(job: Job, launch: SlurmLaunch, folder: Path, worker: Sequence[str]) -> None:
    """Submit the job in `folder` and wait for its end, with its log on the screen.

    Raises:
        KeyboardInterrupt: It was told to stop and could not be queued again.
        UserError: It failed, or this stage was told to stop, which the job does not heed.
    """
    folder = folder.resolve()
    path, log = folder / "slurm.sh", folder / "slurm.log"
    path.write_text(script(job, launch, folder, worker), encoding="utf-8")
    log.touch()
    for left in (_FINISHED, PAUSED):
        (folder / left).unlink(missing_ok=True)
    with closing(Follower(log, start=log.stat().st_size)):
        code = _submit(path)
    node.require_finished(folder)
    if code or not (folder / _FINISHED).exists():
        raise UserError(f"the Slurm job ended with exit code {code} before its last step; its log is '{log}'")


def script(job: Job, launch: SlurmLaunch, folder: Path, worker: Sequence[str]) -> str:
    """Return the batch script of the job in `folder`, an absolute path."""
    options = {
        **launch.sbatch,
        "job-name": f"openbase-{job.fingerprint()[:16]}",
        "dependency": "singleton",
        "nodes": str(launch.nodes),
        "ntasks-per-node": "1",
        "chdir": str(Path.cwd()),
        "output": str(folder / "slurm.log").replace("%", "%%"),
        "open-mode": "append",
        "requeue": "",
        "signal": f"TERM@{launch.save_seconds}",
    }
    lines = [shlex.quote(f"--{name}={value}" if value else f"--{name}") for name, value in options.items()]
    return _SCRIPT.format(
        options="\n".join(f"#SBATCH {line}" for line in lines),
        command=shlex.join([sys.executable, "-W", "ignore", "-m", "model.launching.slurm", str(folder)]),
        worker=shlex.join(worker),
        port=launch.port,
        stopped=_STOPPED,
        end_seconds=_END_SECONDS,
    )


def _submit(path: Path) -> int:
    """Submit a script and return the exit code of its job."""
    command = ["sbatch", "--parsable", "--wait", str(path)]
    try:
        submission = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    except FileNotFoundError:
        raise UserError(
            "there is no sbatch here; run the stage where Slurm is, or change runtime.launch.kind"
        ) from None
    with submission:
        assert submission.stdout
        number = submission.stdout.readline().strip().split(";")[0]
        if not number:
            raise UserError("sbatch has refused the job, see above; correct runtime.launch.sbatch")
        tell(f"Slurm job {number} is in the queue; its script is '{path}'")
        try:
            return submission.wait()
        except KeyboardInterrupt:
            submission.terminate()
            raise UserError(
                f"interrupted, but Slurm job {number} goes on: `scancel {number}` ends it, "
                "`dvc repro pretrain` waits for its end"
            ) from None


def main() -> None:
    """Run this node's part of the job in the folder that the first argument names."""
    folder, endpoint, *worker = sys.argv[1:]
    job, runtime = read_job(Path(folder) / "job.json"), read_runtime(Path(folder) / "runtime.json")
    assert isinstance(runtime.launch, SlurmLaunch)
    launch = TorchrunLaunch(
        kind="torchrun",
        nodes=runtime.launch.nodes,
        endpoint=endpoint,
        join_minutes=runtime.launch.join_minutes,
        max_restarts=runtime.launch.max_restarts,
    )
    try:
        if node.run(job, runtime, launch, Path(folder), worker):
            (Path(folder) / _FINISHED).touch()
    except KeyboardInterrupt:
        sys.exit(_STOPPED)


if __name__ == "__main__":
    runner.run(__file__, main)
