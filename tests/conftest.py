"""Runs to release, made once a session, with a copy for every test that changes one.

All tests share a process with megatron.core, which must be imported after `install`.
"""

import shutil
from pathlib import Path

import pytest
from hypothesis import settings

from model import megatron

megatron.install()

from stages import release  # noqa: E402 - after install
from tests.release import world  # noqa: E402

settings.register_profile("busy", deadline=None)  # other work on a machine is no reason for an example to fail
settings.load_profile("busy")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Count tests over several processes, which import torch and Megatron-Core each, to the end-to-end tier."""
    for item in items:
        if "two_processes" in getattr(item, "fixturenames", ()):
            item.add_marker("e2e")


@pytest.fixture(scope="session")
def _made_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("run")
    world.make(root)
    return root


@pytest.fixture
def run(_made_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the root of a run that is not released yet; it is the working directory."""
    root = tmp_path / "run"
    shutil.copytree(_made_run, root, symlinks=True)
    monkeypatch.chdir(root)
    return root


@pytest.fixture(scope="session")
def _made_release(_made_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("released") / "run"
    shutil.copytree(_made_run, root, symlinks=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        release.main()
    return root


@pytest.fixture
def released_run(_made_release: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the root of a run that is released; it is the working directory."""
    root = tmp_path / "released"
    shutil.copytree(_made_release, root, symlinks=True)
    monkeypatch.chdir(root)
    return root


@pytest.fixture
def released(released_run: Path) -> Path:
    """Return out/release of a run; the run's root is the working directory."""
    return released_run / "out" / "release"
