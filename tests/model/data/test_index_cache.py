import multiprocessing
import os
import resource
import signal
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from model.data.index_cache import Arrays, IndexCache, Spec

SPECS = {"small": Spec(10, np.uint8), "large": Spec(100_000, np.int64)}
SPAWN = multiprocessing.get_context("spawn")


def fill(log: Path, arrays: Arrays) -> None:
    """Write known values, and a line to a log: how often it ran is the number of lines."""
    with log.open("a") as file:
        file.write("filled\n")
    for array in arrays.values():
        array[:] = np.arange(len(array))


def read(folder: Path, log: Path, key: str = "key") -> None:
    arrays = IndexCache(folder, smallest_file=0).arrays((key,), SPECS, partial(fill, log))
    for name, spec in SPECS.items():
        assert arrays[name].dtype == spec.dtype
        assert np.array_equal(arrays[name], np.arange(spec.length))


def test_an_entry_is_built_once(tmp_path: Path) -> None:
    for _ in range(3):
        read(tmp_path / "index", tmp_path / "log")
    assert (tmp_path / "log").read_text() == "filled\n"
    read(tmp_path / "index", tmp_path / "log", key="another")
    assert len((tmp_path / "log").read_text().splitlines()) == 2


def test_a_small_entry_makes_no_file(tmp_path: Path) -> None:
    arrays = IndexCache(tmp_path / "index").arrays(("key",), SPECS, partial(fill, tmp_path / "log"))
    assert np.array_equal(arrays["large"], np.arange(100_000))
    assert not (tmp_path / "index").exists()


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("damage", [cut, empty, flip_a_bit, Path.unlink])
def test_a_damaged_file_is_built_again(tmp_path: Path, damage: Callable[[Path], None]) -> None:
    read(tmp_path / "index", tmp_path / "log")
    for name in SPECS:
        damage(next((tmp_path / "index").glob(f"*-{name}.npy")))
        read(tmp_path / "index", tmp_path / "log")
    assert len((tmp_path / "log").read_text().splitlines()) == 3


def fill_half_and_die(arrays: Arrays) -> None:
    arrays["small"][:] = 0
    os.kill(os.getpid(), signal.SIGKILL)


def build_and_die(folder: Path) -> None:
    IndexCache(folder, smallest_file=0).arrays(("key",), SPECS, fill_half_and_die)


def test_a_killed_writer_leaves_nothing_that_is_taken(tmp_path: Path) -> None:
    killed = SPAWN.Process(target=build_and_die, args=(tmp_path / "index",))
    killed.start()
    killed.join()
    assert killed.exitcode == -signal.SIGKILL
    assert not list((tmp_path / "index").glob("*.npy"))
    read(tmp_path / "index", tmp_path / "log")


def test_processes_that_start_together_build_once(tmp_path: Path) -> None:
    processes = [SPAWN.Process(target=read, args=(tmp_path / "index", tmp_path / "log")) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0, 0]
    assert (tmp_path / "log").read_text() == "filled\n"


@pytest.fixture
def no_file_above_half_a_megabyte() -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (500_000, hard))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_an_entry_that_does_not_fit_is_an_error_and_leaves_nothing(
    tmp_path: Path, no_file_above_half_a_megabyte: None
) -> None:
    with pytest.raises(OSError, match="large"):
        read(tmp_path / "index", tmp_path / "log")
    assert [path.suffix for path in (tmp_path / "index").iterdir()] == [".lock"]
