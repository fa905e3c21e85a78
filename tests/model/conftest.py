"""Folders with a small corpus and parameters, and the stages run in them as dvc runs them."""

import gc
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.model import corpus
from tests.model.two_processes import TwoProcesses

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module", autouse=True)
def no_groups_left() -> Iterator[None]:
    """Let go of the process groups that the models of a file held; their threads would spin."""
    yield
    gc.collect()


@pytest.fixture(scope="session")
def stage_environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT)}


@pytest.fixture
def workspace(tmp_path: Path) -> Callable[..., Path]:
    """A function that makes a folder with token shards and params.yaml."""

    def make(name: str, **settings: Any) -> Path:
        root = tmp_path / name
        corpus.write(root)
        corpus.write_params(root, corpus.params(**settings))
        return root

    return make


@pytest.fixture
def run_stage(stage_environment: dict[str, str]) -> Callable[[str, Path], None]:
    """A function that runs a stage in a folder, as dvc does, and requires that it ends well."""

    def run(stage: str, root: Path) -> None:
        command = [sys.executable, "-m", f"stages.{stage}"]
        ended = subprocess.run(command, cwd=root, env=stage_environment, capture_output=True, text=True)
        assert ended.returncode == 0, ended.stderr

    return run


@pytest.fixture(scope="session")
def two_processes() -> Iterator[TwoProcesses]:
    """A function that calls another in two processes that can form a process group."""
    processes = TwoProcesses()
    yield processes
    processes.close()
