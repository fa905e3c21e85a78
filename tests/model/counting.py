"""A job whose processes only count together, over gloo: what launching is tested with.

`python -m tests.model.counting worker STEPS SECONDS FOLDER` is one of its processes, and
`python -m tests.model.counting stage FOLDER LAUNCH STEPS SECONDS` a stage that starts them, as stages.pretrain would.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from model.families.llama import Llama
from model.job import Job, Shards
from model.launching import heartbeat
from model.launching.runtime import RuntimeSettings, read_runtime
from model.layout import LayoutSettings
from model.optim.schedule import ScheduleSettings
from model.settings import OptimizerSettings, PhaseSettings, PretrainSettings
from stages import runner

ROOT = Path(__file__).parents[2]


def job(processes: int = 2) -> Job:
    """A job of some data-parallel processes."""
    return Job(
        model=Llama(
            num_layers=1, hidden_size=8, ffn_hidden_size=8, num_attention_heads=1, num_query_groups=1, seq_length=8
        ),
        pretrain=PretrainSettings(
            device="cpu",
            precision="float32",
            num_threads=1,
            layout=LayoutSettings(data_parallel_size=processes),
            weight_seed=1,
            data_seed=1,
            phases={
                name: PhaseSettings(tokens=64, blend={"text": 1.0}, global_batch_size=processes) for name in ("z", "a")
            },
            micro_batch_size=1,
            schedule=ScheduleSettings(style="constant", learning_rate=1e-3, min_learning_rate=1e-3, warmup_steps=0),
            optimizer=OptimizerSettings(weight_decay=0.1),
            eval_interval=1,
            eval_sequences=1,
            checkpoint_interval=1,
        ),
        shards=Shards(digest="", tokens="", tokenizer="", tokenizer_sha256="", vocab_size=2, end_of_document=0, pad=1),
        versions={},
    )


def runtime(launch: dict[str, Any], **settings: Any) -> RuntimeSettings:
    """Settings of a run with the launch."""
    values = {"data_workers": 0, "keep_checkpoints": 1, "async_checkpoints": False, "heartbeat_seconds": 60}
    return RuntimeSettings.model_validate(values | {"launch": launch} | settings)


def next_value(value: int, step: int, processes: int) -> int:
    """What a step makes of the value: it depends on every step before and on every process."""
    return (value * 31 + sum((rank + 1) * step for rank in range(processes))) % 1_000_003


def counted(steps: int, processes: int) -> dict[str, int]:
    """What an undisturbed job ends with."""
    value = 1
    for step in range(1, steps + 1):
        value = next_value(value, step, processes)
    return {"step": steps, "value": value}


def worker(steps: int, seconds: float, folder: Path) -> None:
    """Count to `steps`, with a checkpoint after each, from the newest one."""
    import torch
    import torch.distributed as dist

    from model.launching.signals import StopRequest

    stop = StopRequest(read_runtime(folder / "runtime.json").time_limit_minutes)
    dist.init_process_group("gloo")
    rank = dist.get_rank()
    checkpoint = folder / "counted.json"
    state = json.loads(checkpoint.read_text()) if checkpoint.exists() else {"step": 0, "value": 1}
    write(folder / "pids" / str(rank), os.getpid())
    for step in range(state["step"] + 1, steps + 1):
        part = torch.tensor([(rank + 1) * step, stop.requested() is not None])
        dist.all_reduce(part)
        state = {"step": step, "value": (state["value"] * 31 + int(part[0])) % 1_000_003}
        if rank == 0:
            write(checkpoint, state)
            sys.stderr.write(f"\rstep {step}")
        heartbeat.beat(folder, rank, step)
        if part[1]:
            dist.barrier()
            if rank == 0:
                write(folder / "paused.json", {"step": step, "reason": stop.requested() or "SIGTERM"})
            break
        time.sleep(seconds)
        FAULTS[os.environ.get("COUNTING_FAULT", "none")](rank, step)
    dist.barrier()
    dist.destroy_process_group()


def stage(folder: Path, settings: str, steps: str, seconds: str) -> None:
    """Start the processes, and leave `results.json` if its writing falls to this stage."""
    from model.launching import launch

    job_ = job(int(os.environ.get("COUNTING_PROCESSES", "2")))
    command = ("-m", "tests.model.counting", "worker", steps, seconds)
    if launch.train(job_, RuntimeSettings.model_validate_json(settings), folder, command):
        assert not (folder / "results.json").exists(), "two stages believe to be the first"
        write(folder / "results.json", json.loads((folder / "counted.json").read_text()))


def write(path: Path, value: Any) -> None:
    """Write JSON at once."""
    path.parent.mkdir(exist_ok=True)
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(value))
    partial.replace(path)


def raise_error(rank: int, step: int) -> None:
    if rank == 1 and step >= 3:
        raise ValueError("the third step\nwent wrong")


def segfault(rank: int, step: int) -> None:
    if (rank, step) == (1, 3):
        import ctypes

        ctypes.string_at(0)


FAULTS: dict[str, Callable[[int, int], None]] = {
    "none": lambda rank, step: None,
    "error": raise_error,
    "one segfault": segfault,
}
"""What may happen to a process after a step, by the value of COUNTING_FAULT."""


def start(
    folder: Path, settings: RuntimeSettings, steps: int, seconds: float, **environment: str
) -> subprocess.Popen[bytes]:
    """Start the stage as a process."""
    folder.mkdir(exist_ok=True)
    arguments = [str(folder), settings.model_dump_json(), str(steps), str(seconds)]
    return subprocess.Popen(
        [sys.executable, "-m", "tests.model.counting", "stage", *arguments],
        cwd=ROOT,
        env={**os.environ, **environment},
        stderr=subprocess.PIPE,
    )


def wait_for_step(step: int, folder: Path, *stages: subprocess.Popen[bytes]) -> None:
    """Return when the job in `folder` has taken the step."""
    deadline = time.monotonic() + 60
    while heartbeat.oldest(folder, 2) is None or step_of(folder) < step:
        assert all(stage.poll() is None for stage in stages), "it ended before the step was seen"
        assert time.monotonic() < deadline, f"it stands at step {step_of(folder)}"
        time.sleep(0.02)


def step_of(folder: Path) -> int:
    """Steps of the newest checkpoint."""
    checkpoint = folder / "counted.json"
    return int(json.loads(checkpoint.read_text())["step"]) if checkpoint.exists() else 0


def pid_of(rank: int, folder: Path) -> int:
    """Process that has a rank."""
    return int((folder / "pids" / str(rank)).read_text())


if __name__ == "__main__":
    role, *arguments = sys.argv[1:]
    if role == "worker":
        from torch.distributed.elastic.multiprocessing.errors import record

        from model.launching.orphans import die_with_parent
        from model.launching.signals import trace_faults

        die_with_parent()
        trace_faults()
        record(worker)(int(arguments[0]), float(arguments[1]), Path(arguments[2]))
    else:
        runner.run("pretrain.py", lambda: stage(Path(arguments[0]), *arguments[1:]))
