"""The one module that imports lm_eval: it runs tasks on a model directory, without any network."""

import contextlib
import importlib.metadata
import os
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_DATASETS_OFFLINE"] = "1"
os.environ["TQDM_LEAVE"] = ""  # HFLM starts a progress bar a batch: hundreds, if each stays on the screen

import datasets
import torch
from lm_eval import simple_evaluate
from lm_eval.api.task import Task
from lm_eval.tasks import TaskManager

from evals.tokenizer import load_tokenizer
from stages.errors import UserError

SEED = 0
"""For what lm-eval draws (few-shot examples, bootstraps); the tasks made here draw nothing."""

BOOTSTRAP_ITERATIONS = 1000
"""For the metrics of users' tasks that have no closed form; those of the tasks made here have one."""


@dataclass(frozen=True)
class Model:
    """A model directory and how to run it."""

    path: Path
    device: str
    dtype: str
    batch_size: int
    threads: int


@dataclass(frozen=True)
class Outcome:
    """What lm-eval says of each task: version, aggregates by `metric,filter`, and one sample a document."""

    versions: dict[str, Any]
    results: dict[str, dict[str, Any]]
    samples: dict[str, list[dict[str, Any]]]

    def benchmark(self, name: str) -> dict[str, Any]:
        """Return the numbers of a user's task as lm-eval gives them; null where it has no standard error."""
        metrics = {key: value for key, value in self.results[name].items() if "," in key}
        numbers = {key: None if value == "N/A" else value for key, value in metrics.items()}
        return {"version": self.versions[name], "metrics": numbers}


def versions() -> dict[str, str]:
    """Return the versions of the packages that decide the values."""
    return {name: importlib.metadata.version(name) for name in ("lm_eval", "transformers")}


def run(model: Model, folder: Path, names: Sequence[str], benchmarks: Sequence[str], include: Path | None) -> Outcome:
    """Run the tasks `names` of `folder`, and `benchmarks` that lm-eval or the task folder `include` defines.

    Raises:
        UserError: The device is not there, or a benchmark is not known.
    """
    _check_device(model.device)
    manager = _task_manager(benchmarks, include)
    torch.set_num_threads(model.threads)
    tokenizer = load_tokenizer(model.path)
    with _temporary_datasets_cache():
        found = simple_evaluate(
            model="hf",
            model_args={
                "pretrained": str(model.path),
                "tokenizer": tokenizer,
                "dtype": model.dtype,
                "add_bos_token": False,
            },
            tasks=[*_load(folder, names), *benchmarks],
            task_manager=manager,
            device=model.device,
            batch_size=model.batch_size,
            bootstrap_iters=BOOTSTRAP_ITERATIONS,
            random_seed=SEED,
            numpy_random_seed=SEED,
            torch_random_seed=SEED,
            fewshot_random_seed=SEED,
        )
    return Outcome(found["versions"], found["results"], found["samples"])


def _check_device(device: str) -> None:
    """Refuse a device that is not there, for which HFLM would quietly take another."""
    known = ["cpu"]
    if torch.cuda.is_available():
        known += ["cuda", *(f"cuda:{index}" for index in range(torch.cuda.device_count()))]
    if device not in known:
        raise UserError(f"evaluate.device = '{device}': torch finds {', '.join(known)} here. Choose one of these.")


def _task_manager(benchmarks: Sequence[str], include: Path | None) -> TaskManager:
    manager = TaskManager(include_path=include, include_defaults=bool(benchmarks))
    unknown = sorted(set(benchmarks) - set(manager.all_tasks))
    if unknown:
        raise UserError(
            f"evaluate.tasks: lm-eval knows no '{unknown[0]}'. Correct the name, "
            f"or set evaluate.include_path (now '{include}') to the folder with its YAML."
        )
    return manager


def _load(folder: Path, names: Sequence[str]) -> list[Task]:
    """Load the tasks from their folder, because they name their data relative to it."""
    with contextlib.chdir(folder):
        tasks = TaskManager(include_path=Path(), include_defaults=False).load(list(names))["tasks"]
    return [tasks[name] for name in names]


@contextlib.contextmanager
def _temporary_datasets_cache() -> Iterator[None]:
    """Keep copies of the tasks' data out of the user's home."""
    usual = datasets.config.HF_DATASETS_CACHE
    with tempfile.TemporaryDirectory() as folder:
        datasets.config.HF_DATASETS_CACHE = folder
        try:
            yield
        finally:
            datasets.config.HF_DATASETS_CACHE = usual
