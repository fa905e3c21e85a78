"""The registry holds whole releases only, each file once, and never another under the same version."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from release import registry, sums
from stages.errors import UserError


@pytest.fixture
def release(tmp_path: Path) -> Path:
    root = tmp_path / "release"
    (root / "data").mkdir(parents=True)
    for number in range(20):
        (root / "data" / str(number)).write_bytes(bytes([number % 7]) * 1000)
    sums.write(root)
    return root


def _state(root: Path) -> dict[str, tuple[int, bytes]]:
    return {str(path): (path.stat().st_mtime_ns, path.read_bytes()) for path in root.rglob("*") if path.is_file()}


def test_restored_release_is_the_published_one(release: Path, tmp_path: Path) -> None:
    registry.publish(release, tmp_path / "registry", "tiny", "1.0")
    digest = registry.restore(tmp_path / "registry", "tiny", "1.0", tmp_path / "restored")
    assert digest == sums.digest(release) == sums.digest(tmp_path / "restored")
    assert not list(sums.differences(tmp_path / "restored"))


def test_publishing_again_touches_nothing(release: Path, tmp_path: Path) -> None:
    registry.publish(release, tmp_path / "registry", "tiny", "1.0")
    before = _state(tmp_path / "registry" / "blobs") | _state(tmp_path / "registry" / "refs")
    registry.publish(release, tmp_path / "registry", "tiny", "1.0")
    assert _state(tmp_path / "registry" / "blobs") | _state(tmp_path / "registry" / "refs") == before


def test_equal_files_are_stored_once(release: Path, tmp_path: Path) -> None:
    registry.publish(release, tmp_path / "registry", "tiny", "1.0")
    assert len([path for path in (tmp_path / "registry" / "blobs").rglob("*") if path.is_file()]) == 7


def test_version_does_not_move_unless_told_so(release: Path, tmp_path: Path) -> None:
    registry.publish(release, tmp_path / "registry", "tiny", "1.0")
    (release / "data" / "0").write_text("new")
    digest = sums.write(release)
    with pytest.raises(UserError, match=r"'1\.0' of 'tiny' is published already.*move_version"):
        registry.publish(release, tmp_path / "registry", "tiny", "1.0")
    registry.publish(release, tmp_path / "registry", "tiny", "1.0", move_version=True)
    assert registry.restore(tmp_path / "registry", "tiny", "1.0", tmp_path / "restored") == digest


def test_damaged_blob_is_mended_by_publishing_and_refused_by_restoring(release: Path, tmp_path: Path) -> None:
    registry.publish(release, tmp_path / "registry", "tiny", "1.0")
    blob = next(path for path in sorted((tmp_path / "registry" / "blobs").rglob("*")) if path.is_file())
    blob.write_bytes(b"rot")
    with pytest.raises(UserError, match="The registry is damaged"):
        registry.restore(tmp_path / "registry", "tiny", "1.0", tmp_path / "restored")
    registry.publish(release, tmp_path / "registry", "tiny", "1.0")
    registry.restore(tmp_path / "registry", "tiny", "1.0", tmp_path / "again")


def test_file_that_changes_while_it_is_published_is_refused(release: Path, tmp_path: Path) -> None:
    (release / "data" / "1").write_text("changed after the sums")
    with pytest.raises(UserError, match="changed while it was published"):
        registry.publish(release, tmp_path / "registry", "tiny", "1.0")
    assert not list((tmp_path / "registry").rglob("*.partial"))


KILLED = """
import os, signal, sys
from pathlib import Path
from release import registry
calls = 0
flush = registry._flush
def dying(path):
    global calls
    calls += 1
    if calls == int(sys.argv[3]):
        os.kill(os.getpid(), signal.SIGKILL)
    flush(path)
registry._flush = dying
registry.publish(Path(sys.argv[1]), Path(sys.argv[2]), "tiny", "1.0")
"""


@pytest.mark.parametrize("call", [1, 2, 9, 15, 16, 17, 18])
def test_killed_publisher_leaves_no_half_release_and_the_next_completes(
    release: Path, tmp_path: Path, call: int
) -> None:
    place = tmp_path / "registry"
    command = [sys.executable, "-c", KILLED, str(release), str(place), str(call)]
    done = subprocess.run(command, env=os.environ | {"PYTHONPATH": str(Path.cwd())})
    assert done.returncode == -signal.SIGKILL
    if (place / "refs" / "tiny" / "1.0").exists():
        registry.restore(place, "tiny", "1.0", tmp_path / "early")
    registry.publish(release, place, "tiny", "1.0")
    registry.restore(place, "tiny", "1.0", tmp_path / "restored")
    assert not list(place.rglob("*.partial"))


def test_restoring_needs_a_known_version_and_an_empty_target(release: Path, tmp_path: Path) -> None:
    registry.publish(release, tmp_path / "registry", "tiny", "1.0")
    with pytest.raises(UserError, match=r"no release 'tiny' of version '2\.0'"):
        registry.restore(tmp_path / "registry", "tiny", "2.0", tmp_path / "restored")
    with pytest.raises(UserError, match="is not empty"):
        registry.restore(tmp_path / "registry", "tiny", "1.0", release)
