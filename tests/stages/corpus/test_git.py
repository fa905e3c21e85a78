"""What a commit of a git repository holds comes into a snapshot, and nothing that it only points to."""

import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from stages.corpus.git import GitStore
from stages.corpus.sources import GitSource
from stages.corpus.stores import fetched, reading
from stages.errors import UserError
from stages.settings import validate
from tests.stages.corpus.web import Fault, Web

Git = Callable[..., str]
LFS_POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:" + "0" * 64 + "\nsize 12345\n"


def git_in(folder: Path) -> Git:
    """Return a function that runs git in a repository at `folder`, which it makes."""
    folder.mkdir(parents=True)
    who = ["-c", "user.name=A", "-c", "user.email=a@example.org", "-c", "commit.gpgsign=false"]

    def git(*arguments: str) -> str:
        run = subprocess.run(["git", *who, *arguments], cwd=folder, check=True, capture_output=True, text=True)
        return run.stdout.strip()

    git("init", "--quiet", "--initial-branch=main")
    return git


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "repository"


@pytest.fixture
def git(root: Path) -> Git:
    return git_in(root)


@pytest.fixture
def commit(root: Path, git: Git) -> str:
    """The first of two commits: the second changes a file."""
    (root / "docs").mkdir()
    (root / "docs/a.md").write_bytes("één\r\n".encode())
    (root / "docs/b c.txt").write_text("two\n")
    (root / "README.md").write_text("# Texts\n")
    git("add", ".")
    git("commit", "--quiet", "--message", "one")
    git("tag", "--annotate", "--message", "one", "v1")
    first = git("rev-parse", "HEAD")
    (root / "docs/a.md").write_text("changed later\n")
    git("commit", "--quiet", "--all", "--message", "two")
    return first


def store(repository: str | Path, commit: str, folder: Path, **settings: Any) -> GitStore:
    pinned = {"kind": "git", "domain": "prose", "repository": str(repository), "commit": commit}
    pinned |= {"license": "MIT", "license_revision": commit}
    return GitStore(validate("source", GitSource, {**pinned, **settings}, "test"), folder)


def texts(opened: GitStore) -> dict[str, str]:
    return {each.origin: each.text for each in reading(opened, opened._source).candidates}


@pytest.mark.parametrize("address", ["{}", "file://{}"])
def test_a_commits_files_are_read_as_they_were_committed(address: str, root: Path, commit: str, tmp_path: Path) -> None:
    opened = store(address.format(root), commit, tmp_path / "fetched")
    assert texts(opened) == {"README.md": "# Texts\n", "docs/a.md": "één\r\n", "docs/b c.txt": "two\n"}
    assert opened.listing().versions == {"commit": commit}


def test_a_listed_file_is_read_where_nothing_was_fetched_before(root: Path, commit: str, tmp_path: Path) -> None:
    [file] = store(root, commit, tmp_path / "here", include=["/docs/a.md"]).listing().files
    with store(f"file://{root}", commit, tmp_path / "elsewhere") as opened:
        assert fetched(opened, file).read_text(encoding="utf-8") == "één\n"


def test_patterns_select(root: Path, commit: str, tmp_path: Path) -> None:
    opened = store(root, commit, tmp_path, include=["/docs/"], exclude=["*.txt"])
    assert list(texts(opened)) == ["docs/a.md"]


@pytest.mark.parametrize("address", ["{}", "file://{}"])
@pytest.mark.parametrize("name", ["main", "v1"])
def test_a_branch_or_tag_is_refused_with_its_commit(
    name: str, address: str, root: Path, git: Git, commit: str, tmp_path: Path
) -> None:
    expected = git("rev-parse", f"{name}^{{commit}}")
    with pytest.raises(UserError, match=rf"commit = '{name}' is not a commit's 40 hex digits.* {expected} now"):
        store(address.format(root), name, tmp_path / "fetched").listing()


@pytest.mark.parametrize(
    ("address", "name", "message"),
    [
        ("{}", "none", "commit = 'none' is no commit, branch or tag"),
        ("{}", "0" * 40, "has no commit 0000"),
        ("file://{}", "0" * 40, "git cannot read repository 'file://.*not our ref 0000"),
        ("{}/none", "0" * 40, "git cannot read repository '.*/none'"),
    ],
)
def test_what_is_not_there_is_an_error_that_names_the_repository(
    address: str, name: str, message: str, root: Path, commit: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=message):
        store(address.format(root), name, tmp_path / "fetched").listing()


@pytest.mark.parametrize("status", [429, 500, 503, 0])
def test_a_server_that_is_busy_is_asked_again(status: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []
    monkeypatch.setattr(time, "sleep", waits.append)
    with Web() as web:
        web.faults.append(Fault("/x.git/info/refs?service=git-upload-pack", status, times=2))
        with pytest.raises(UserError, match=rf"git cannot read repository '{web.url}/x\.git': .*404|not found"):
            store(f"{web.url}/x.git", "0" * 40, tmp_path).listing()
    assert len(waits) == 2


def test_links_and_submodules_are_not_followed_and_said(root: Path, git: Git, commit: str, tmp_path: Path) -> None:
    secret = tmp_path / "secret.txt"
    secret.write_text("of this machine")
    (root / "docs/link.txt").symlink_to(secret)
    git("update-index", "--add", "--cacheinfo", f"160000,{commit},other")
    git("add", "docs")
    git("commit", "--quiet", "--message", "three")
    opened = store(root, git("rev-parse", "HEAD"), tmp_path / "fetched")
    assert set(texts(opened)) == {"README.md", "docs/a.md", "docs/b c.txt"}
    skipped = opened.listing().skipped
    assert set(skipped) == {"docs/link.txt", "other"}
    assert "link is not followed" in skipped["docs/link.txt"]
    assert "submodule is another repository" in skipped["other"]


def test_a_pointer_of_git_lfs_is_not_taken_for_a_text(root: Path, git: Git, commit: str, tmp_path: Path) -> None:
    (root / "docs/big.txt").write_text(LFS_POINTER)
    git("add", "docs")
    git("commit", "--quiet", "--message", "three")
    with pytest.raises(UserError, match=r"'docs/big\.txt' of repository .* is in Git LFS"):
        texts(store(root, git("rev-parse", "HEAD"), tmp_path))


def test_a_fetched_commit_is_not_fetched_again(root: Path, commit: str, tmp_path: Path) -> None:
    address = f"file://{root}"
    expected = texts(store(address, commit, tmp_path / "fetched"))
    root.rename(tmp_path / "moved")
    assert texts(store(address, commit, tmp_path / "fetched")) == expected


def test_a_blob_that_is_damaged_is_refused(root: Path, git: Git, commit: str, tmp_path: Path) -> None:
    blob, other = (git("rev-parse", f"{commit}:{path}") for path in ("docs/a.md", "README.md"))
    path, copied = (root / ".git/objects" / each[:2] / each[2:] for each in (blob, other))
    path.chmod(0o644)
    path.write_bytes(copied.read_bytes())
    with pytest.raises(UserError, match=r"'docs/a\.md' of repository '.*'"):
        texts(store(root, commit, tmp_path / "fetched"))


@pytest.mark.parametrize(
    "repository",
    ["ext::sh -c touch% x", "--upload-pack=touch x", "ftp://example.org/x", "https://user:secret@example.org/x"],
)
def test_a_repository_that_is_a_command_or_a_secret_is_refused(repository: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"source\.repository"):
        store(repository, "0" * 40, tmp_path)


@pytest.mark.parametrize(
    ("repository", "shown"), [("https://example.org/x.git", True), ("git@example.org:x.git", True), ("../x", False)]
)
def test_a_manifest_names_a_repository_but_no_folder(repository: str, shown: bool, tmp_path: Path) -> None:
    source = store(repository, "0" * 40, tmp_path)._source
    assert ("repository" in source.public()) == shown
