import os
import threading
import time
from pathlib import Path

import pytest

from model.launching.heartbeat import beat, clear, oldest


def silent(folder: Path, rank: int, seconds: float) -> None:
    """Make a beat older."""
    path = folder / "heartbeats" / f"rank-{rank:05d}"
    then = path.stat().st_mtime - seconds
    os.utime(path, (then, then))


def test_nothing_is_said_of_processes_that_have_not_started(tmp_path: Path) -> None:
    assert oldest(tmp_path, 2) is None


def test_the_process_that_has_been_silent_longest_is_found_with_its_step(tmp_path: Path) -> None:
    for rank in range(3):
        beat(tmp_path, rank, 40 + rank)
    silent(tmp_path, 0, 10)
    silent(tmp_path, 1, 100)
    found = oldest(tmp_path, 3)
    assert found
    assert (found.rank, found.step) == (1, 41)
    assert found.age == pytest.approx(100, abs=5)


def test_a_beat_ends_a_silence(tmp_path: Path) -> None:
    beat(tmp_path, 0, 123456)
    silent(tmp_path, 0, 100)
    beat(tmp_path, 0, 7)
    found = oldest(tmp_path, 1)
    assert found
    assert found.step == 7
    assert 0 <= found.age < 50


def test_a_process_without_a_beat_is_left_out(tmp_path: Path) -> None:
    beat(tmp_path, 2, 5)
    (tmp_path / "heartbeats" / "rank-00001").touch()  # opened, not yet written
    found = oldest(tmp_path, 4)
    assert found
    assert found.rank == 2


def test_beats_of_an_earlier_attempt_can_be_cleared(tmp_path: Path) -> None:
    clear(tmp_path)
    beat(tmp_path, 0, 1)
    clear(tmp_path)
    assert oldest(tmp_path, 1) is None


def test_looking_leaves_nothing_in_the_folder(tmp_path: Path) -> None:
    beat(tmp_path, 0, 1)
    oldest(tmp_path, 1)
    assert [path.name for path in tmp_path.iterdir()] == ["heartbeats"]


def test_a_step_is_never_read_half_written(tmp_path: Path) -> None:
    end = time.monotonic() + 0.3
    beat(tmp_path, 0, 0)

    def write() -> None:
        step = 0
        while time.monotonic() < end:
            step += 10**9 + 1  # every digit changes
            beat(tmp_path, 0, step)

    thread = threading.Thread(target=write)
    thread.start()
    steps = []
    while thread.is_alive():
        found = oldest(tmp_path, 1)
        assert found
        steps.append(found.step)
    thread.join()
    assert len(set(steps)) > 1
    assert steps == sorted(steps)
    assert all(step % (10**9 + 1) == 0 for step in steps)
