"""The one module that imports lm_eval: it runs tasks on a model directory or in memory, without any network."""

import contextlib
import functools
import importlib.metadata
import logging
import numbers
import os
import random
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_DATASETS_OFFLINE"] = "1"
os.environ["TQDM_LEAVE"] = ""  # HFLM starts a progress bar a batch: hundreds, if each stays on the screen

import datasets
import numpy as np
import torch
from lm_eval import evaluate, simple_evaluate
from lm_eval.api import task as task_module
from lm_eval.api.model import TemplateLM as TemplateLM
from lm_eval.api.task import Task
from lm_eval.tasks import TaskManager
from lm_eval.tasks._index import Kind
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

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
    manager = _task_manager(benchmarks, include, "evaluate")
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


def _task_manager(names: Sequence[str], include: Path | None, section: str) -> TaskManager:
    """Return what knows the tasks `names`; lm-eval's own are read only where needed, for that takes seconds."""
    folder = include.absolute() if include else None
    if folder or not names:
        manager = _index(folder, False)
        if set(names) <= set(manager.all_subtasks):
            return manager
    manager = _index(folder, True)
    unknown = sorted(set(names) - set(manager.all_tasks))
    if unknown:
        raise UserError(
            f"{section}.tasks: lm-eval knows no '{unknown[0]}'. Correct the name, "
            f"or set {section}.include_path (now '{include}') to the folder with its YAML."
        )
    return manager


@functools.cache
def _index(include: Path | None, include_defaults: bool) -> TaskManager:
    return TaskManager(include_path=include, include_defaults=include_defaults)


def leaves(names: Sequence[str], include: Path | None, section: str) -> dict[str, list[str]]:
    """Return for each of the names the tasks that it stands for, without their data: a group's, a tag's, or itself.

    Args:
        names: Tasks, groups or tags.
        include: A folder of task definitions beside lm-eval's own.
        section: Of params.yaml, for messages.

    Raises:
        UserError: A name is not known.
    """
    index = _task_manager(names, include, section).task_index
    return {name: sorted(set(_leaves(name, index))) for name in names}


def _leaves(name: str, index: dict[str, Any]) -> Iterator[str]:
    entry = index[name]
    if entry.kind == Kind.GROUP:
        yield from _members(name, entry.cfg, index)
    elif entry.kind == Kind.TAG:
        yield from entry.tags
    else:
        yield name


def _members(group: str, config: dict[str, Any], index: dict[str, Any]) -> Iterator[str]:
    """Yield the tasks of a group; one that is defined in the group has the name that lm-eval gives it."""
    members = config["task"]
    for member in members if isinstance(members, list) else [members]:
        settings = member if isinstance(member, dict) else {"task": member}
        name = settings.get("group") or settings["task"]
        if name in index:
            yield from _leaves(name, index)
        elif "group" in settings:
            yield from _members(f"{group}::{name}", settings, index)
        else:
            yield f"{group}::{name}"


def _load(folder: Path, names: Sequence[str]) -> list[Task]:
    """Load the tasks from their folder, because they name their data relative to it."""
    with contextlib.chdir(folder):
        tasks = TaskManager(include_path=Path(), include_defaults=False).load(list(names))["tasks"]
    return [tasks[name] for name in names]


@functools.cache
def load_tasks(names: tuple[str, ...], include: Path | None, section: str) -> dict[str, Any]:
    """Return tasks that can be run on a model in memory, and the groups they make.

    Args:
        names: Tasks, groups or tags.
        include: A folder of task definitions beside lm-eval's own; where a task names files of data, from the working
            directory.
        section: Of params.yaml, for messages.

    Raises:
        UserError: A name is not known, its data is not on this machine, or it wants generated text.
    """
    with _temporary_datasets_cache(), _quiet():
        manager = _task_manager(names, include, section)
        try:
            loaded: dict[str, Any] = manager.load(list(names))
        except OSError as error:
            raise UserError(f"{section}.tasks: data of {', '.join(names)} is not on this machine: {error}") from error
    for name, task in loaded["tasks"].items():
        if task.OUTPUT_TYPE == "generate_until":
            raise UserError(f"{section}.tasks: '{name}' has the model write text, which is for `evaluate`; remove it")
    return loaded


def run_in_memory(model: TemplateLM, loaded: dict[str, Any], limit: int) -> dict[str, dict[str, float]]:
    """Return the metrics of loaded tasks and groups by name; the process is left as it was, its random state too.

    Args:
        model: What answers.
        loaded: From `load_tasks`.
        limit: Documents of each task.
    """
    for task in loaded["tasks"].values():
        task.set_fewshot_seed(seed=SEED)  # each time, or the examples would be others in each
    with _quiet(), _same_random_state():
        found = evaluate(model, loaded, limit=limit, bootstrap_iters=0, log_samples=False)["results"]
    return {name: _metrics(found[name]) for name in sorted(found)}


def _metrics(values: dict[str, Any]) -> dict[str, float]:
    """Return the numbers of `metric,filter` keys; lm-eval calls the filter that does nothing `none`."""
    return {
        key.removesuffix(",none"): float(value)
        for key, value in values.items()
        if "," in key and isinstance(value, numbers.Real)
    }


def rolling_windows(tokens: list[int], prefix: int, length: int) -> list[tuple[list[int], list[int]]]:
    """Return contexts and continuations that score each token once, `length` + 1 tokens together at most."""
    windows = get_rolling_token_windows(tokens, prefix_token=prefix, max_seq_len=length, context_len=1)
    return list(map(make_disjoint_window, windows))


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep lm-eval's log and the progress bars that it cannot be asked to leave out off the screen."""
    log, bar, bars = logging.getLogger("lm_eval"), task_module.tqdm, datasets.are_progress_bars_disabled()
    level = log.level
    log.setLevel(logging.ERROR)
    task_module.tqdm = functools.partial(bar, disable=True)
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        log.setLevel(level)
        task_module.tqdm = bar
        if not bars:
            datasets.enable_progress_bars()


@contextlib.contextmanager
def _same_random_state() -> Iterator[None]:
    """Put the random states back, whatever a task draws."""
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.set_rng_state(states[2])


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
