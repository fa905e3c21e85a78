"""Sources of kind `git`: files of a repository at a commit, read from git's objects without a working tree.

By the command `git`, which whoever cloned this project has: it knows a user's credentials, proxies and transports.
Dulwich, which DVC brings, reads blobs as fast, but took three times as long to fetch a repository.
"""

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

from release.retry import UnclearError, until_clear
from stages.corpus.candidates import Reference, select
from stages.corpus.sources import GitSource
from stages.corpus.stores import COMMIT, Listing, Store
from stages.errors import UserError
from stages.formats import formats

LINK, SUBMODULE = "120000", "160000"
_SKIPPED = {LINK: "a symbolic link is not followed", SUBMODULE: "a submodule is another repository: give it a source"}
_LFS_POINTER = b"version https://git-lfs.github.com/spec/"
_LFS_POINTER_BYTES = 1024  # a pointer is smaller (git-lfs, docs/spec.md)
# What the network or a busy server causes; a wrong name or missing rights come back as the same exit code, 128.
_PASSING = re.compile(
    r"could not resolve host|timed out|connection (was )?(reset|refused)|early eof|hung up|"
    r"returned error: (408|429|5\d\d)|rpc failed|disconnect|empty reply|transfer closed|non-properly terminated",
    re.IGNORECASE,
)


class GitStore(Store):
    """The files of one commit of a repository."""

    def __init__(self, source: GitSource, folder: Path) -> None:
        """Keep what is fetched below `folder`; a repository on this machine is read where it is."""
        super().__init__(f"repository '{source.repository}'")
        self._source, self._folder = source, folder
        self._local = "://" not in source.repository and Path(source.repository).is_dir()
        self._git_folder = Path(source.repository) if self._local else folder / "repository"
        self._objects: subprocess.Popen[bytes] | None = None

    def listing(self) -> Listing:
        """Return the commit's files that match; links and submodules that match are skipped, and said."""
        commit = self._source.commit
        if not COMMIT.fullmatch(commit):
            raise UserError(self._unpinned(commit))
        self._bring(commit)
        entries = dict(self._entries(commit))
        selected = select(entries, self._source.include, self._source.exclude)
        modes = {path: entries[path][0] for path in selected}
        files = [path for path in selected if modes[path] not in _SKIPPED]
        formats.check(files, self.where, self._source.formats)
        return Listing(
            {"commit": commit},
            tuple(entries[path][1] for path in files),
            {path: _SKIPPED[modes[path]] for path in selected if modes[path] in _SKIPPED},
        )

    def fetch(self, file: Reference) -> Path:
        """Write the file's blob to the disk."""
        if self._objects is None:
            self._bring(self._source.commit)
            self._objects = self.closing.enter_context(self._batch())
        assert self._objects.stdin is not None
        assert self._objects.stdout is not None
        self._objects.stdin.write(file.digest.removeprefix("git-blob:").encode() + b"\n")
        self._objects.stdin.flush()
        header = self._objects.stdout.readline().split()
        if len(header) != 3:
            raise UserError(f"'{file.path}' of {self.where} cannot be read: {header!r}. Run `git fsck` there.")
        data = self._objects.stdout.read(int(header[2]) + 1)[:-1]
        if len(data) < _LFS_POINTER_BYTES and data.startswith(_LFS_POINTER):
            raise UserError(
                f"'{file.path}' of {self.where} is in Git LFS: the repository has only a pointer to it. "
                "Take it by a source of kind url or hub, or add it to `exclude`."
            )
        self._folder.mkdir(parents=True, exist_ok=True)
        path = self._folder / "blob"
        path.write_bytes(data)
        return path

    def _entries(self, commit: str) -> Iterator[tuple[str, tuple[str, Reference]]]:
        """Yield (path, (mode, file)) of every file, link and submodule of the commit."""
        for line in self._run("ls-tree", "-r", "-z", "--full-tree", "--long", commit).split(b"\0")[:-1]:
            meta, _, name = line.partition(b"\t")
            mode, _, blob, size = meta.decode().split()
            path = os.fsdecode(name)
            length = int(size) if size != "-" else None
            yield path, (mode, Reference(path, length, f"git-blob:{blob}", revision=commit))

    def _unpinned(self, name: str) -> str:
        listed = until_clear(lambda: self._ask("ls-remote", "--", self._source.repository, name, f"{name}^{{}}"))
        commits = [line.split("\t")[0] for line in listed.decode().splitlines()]
        if not commits:
            return f"commit = '{name}' is no commit, branch or tag of {self.where}. Give the 40 hex digits of a commit."
        return (
            f"commit = '{name}' is not a commit's 40 hex digits, and a branch or tag of {self.where} may move. "
            f"It points to {commits[-1]} now: give that."
        )

    def _bring(self, commit: str) -> None:
        if not self._has(commit):
            self._fetch_commit(commit)

    def _has(self, commit: str) -> bool:
        if not self._git_folder.is_dir():
            return False
        found = subprocess.run(
            [*self._git(), "cat-file", "-e", f"{commit}^{{tree}}"], capture_output=True, env=_environment(), check=False
        )
        return found.returncode == 0

    def _fetch_commit(self, commit: str) -> None:
        """Fetch the one commit, without its history."""
        if self._local:
            raise UserError(f"{self.where} has no commit {commit}. Fetch it there, or correct `commit`.")
        shutil.rmtree(self._git_folder, ignore_errors=True)
        self._git_folder.mkdir(parents=True)
        self._run("init", "--quiet", "--bare", ".")
        until_clear(lambda: self._ask("fetch", "--quiet", "--depth=1", "--no-tags", self._source.repository, commit))

    def _ask(self, *arguments: str) -> bytes:
        try:
            return self._run(*arguments)
        except UserError as error:
            if _PASSING.search(str(error)):
                raise UnclearError(str(error)) from error
            raise

    def _run(self, *arguments: str) -> bytes:
        command = self._git() if self._git_folder.is_dir() else ["git"]
        try:
            return subprocess.run([*command, *arguments], capture_output=True, env=_environment(), check=True).stdout
        except FileNotFoundError:
            raise UserError("A source of kind git needs the command git. Install git.") from None
        except subprocess.CalledProcessError as error:
            reason = " ".join(error.stderr.decode(errors="replace").split())
            raise UserError(
                f"git cannot read {self.where}: {reason} Correct `repository` or `commit`, or give a clone."
            ) from None

    def _batch(self) -> "subprocess.Popen[bytes]":
        return subprocess.Popen(
            [*self._git(), "cat-file", "--batch"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=_environment(),
        )

    def _git(self) -> list[str]:
        return ["git", "-C", str(self._git_folder)]


def _environment() -> dict[str, str]:
    """Return an environment in which git asks nobody, runs no helper transport, and reads objects as they are."""
    return {
        **os.environ,
        "GIT_ALLOW_PROTOCOL": "file:git:http:https:ssh",
        "GIT_TERMINAL_PROMPT": "0",
        "GIT_NO_REPLACE_OBJECTS": "1",
        "LC_ALL": "C",
    }
