"""The archive, the commit and the patch are the code as it was run."""

import gzip
import subprocess
import tarfile
from pathlib import Path

import pytest

from release import checks_source, git_objects, source
from stages.errors import UserError
from tests.release import world


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    root = tmp_path / "repository"
    root.mkdir()
    world.source(root)
    monkeypatch.chdir(root)
    return root


@pytest.fixture
def code(tmp_path: Path) -> Path:
    folder = tmp_path / "code"
    folder.mkdir()
    return folder


def _unpacked(code: Path, target: Path) -> Path:
    with tarfile.open(code / "source.tar.gz") as tar:
        tar.extractall(target, filter="data")
    if (code / "uncommitted.diff").exists():
        subprocess.run(["git", "apply", str(code / "uncommitted.diff")], cwd=target, check=True)
    return target


def _tree(root: Path) -> dict[str, tuple[bool, bytes]]:
    paths = [
        path for path in root.rglob("*") if path.is_file() and ".git" not in path.parts and "out" not in path.parts
    ]
    return {str(path.relative_to(root)): (path.stat().st_mode & 0o100 != 0, path.read_bytes()) for path in paths}


def test_clean_tree_has_no_patch_and_its_archive_is_the_tree(repository: Path, code: Path, tmp_path: Path) -> None:
    source.collect(code)
    assert not (code / "uncommitted.diff").exists()
    assert _tree(_unpacked(code, tmp_path / "unpacked")) == _tree(repository)


def test_archive_with_patch_is_the_dirty_tree(repository: Path, code: Path, tmp_path: Path) -> None:
    (repository / "params.yaml").write_text("changed: true\n")
    (repository / "run.sh").unlink()
    (repository / "stages" / "new ä.py").write_text("untracked = 1\n")
    (repository / "binary").write_bytes(bytes(range(256)))
    (repository / "stages" / "pretrain.py").chmod(0o755)
    (repository / "out").mkdir()
    (repository / "out" / "ignored").write_text("")
    source.collect(code)
    assert _tree(_unpacked(code, tmp_path / "unpacked")) == _tree(repository)


def test_lock_that_the_run_rewrites_is_not_in_the_patch(repository: Path, code: Path) -> None:
    (repository / "dvc.lock").write_text("schema: '2.0'\n")
    source.collect(code)
    assert not (code / "uncommitted.diff").exists()


def test_repository_is_left_as_it_was(repository: Path, code: Path) -> None:
    (repository / "new.py").write_text("x = 1\n")
    files = sorted(str(path) for path in (repository / ".git").rglob("*"))
    before = world.git(repository, "status", "--porcelain")
    source.collect(code)
    assert world.git(repository, "status", "--porcelain") == before
    assert sorted(str(path) for path in (repository / ".git").rglob("*")) == files


def test_user_configuration_changes_no_byte(repository: Path, code: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (repository / "LICENSE").write_text("another\n")
    source.collect(code)
    plain = {path.name: path.read_bytes() for path in code.iterdir()}
    for key, value in {
        "core.autocrlf": "input",
        "tar.umask": "0077",
        "diff.noprefix": "true",
        "diff.mnemonicPrefix": "true",
        "color.ui": "always",
        "diff.context": "9",
        "diff.algorithm": "patience",
    }.items():
        world.git(repository, "config", key, value)
    source.collect(code)
    assert {path.name: path.read_bytes() for path in code.iterdir()} == plain


def test_ids_recomputed_from_the_archive_are_gits(repository: Path, code: Path) -> None:
    source.collect(code)
    archive = code / "source.tar.gz"
    commit = world.git(repository, "rev-parse", "HEAD").strip()
    assert git_objects.archived_tree(archive) == world.git(repository, "rev-parse", "HEAD^{tree}").strip()
    stated, content = (code / "commit.txt").read_bytes().split(b"\n", 1)
    assert stated.decode() == commit == git_objects.object_id("commit", content)


def test_archive_of_another_tree_is_found(repository: Path, code: Path) -> None:
    source.collect(code)
    (repository / "run.sh").write_text("#!/bin/sh\nexit 1\n")
    world.git(repository, "commit", "--quiet", "--all", "--message=Change")
    archive = world.git(repository, "archive", "HEAD").encode()
    (code / "source.tar.gz").write_bytes(gzip.compress(archive))
    assert any("not that of commit" in line for line in checks_source._commit(code))


def test_directory_that_is_no_repository_is_refused(
    tmp_path: Path, code: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(code)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path))
    with pytest.raises(UserError, match="made in a git checkout"):
        source.collect(code)


def test_repository_without_a_commit_is_refused(code: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(code)
    world.git(code, "init", "--quiet")
    with pytest.raises(UserError, match="no commit yet"):
        source.collect(code)
