"""The code as it was run: the commit's archive, the commit itself, and what the working tree changed since."""

import gzip
import os
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path

from stages.errors import UserError

REWRITTEN_BY_THE_RUN = "dvc.lock"


def collect(target: Path) -> None:
    """Write `source.tar.gz`, `commit.txt` and, if the working tree differs, `uncommitted.diff` into `target`.

    The working directory must be the top of a git repository. `commit.txt` is the commit's id followed by
    the commit object itself, so that the id can be recomputed from the archive without the repository.

    Raises:
        UserError: There is no git, no repository here, or no commit yet.
    """
    commit = _head()
    (target / "commit.txt").write_bytes(commit.encode() + b"\n" + _git("cat-file", "commit", commit))
    (target / "source.tar.gz").write_bytes(gzip.compress(_archive(commit), mtime=0))
    if difference := uncommitted(commit):
        (target / "uncommitted.diff").write_bytes(difference)


def uncommitted(commit: str) -> bytes:
    """Return the patch from `commit` to the working tree, untracked files that are not ignored included.

    dvc.lock is left out: the run that makes the release rewrites it. The repository's own index and object
    store stay as they are.
    """
    with tempfile.TemporaryDirectory() as scratch:
        objects = Path(scratch, "objects")
        objects.mkdir()
        own_objects = Path(_git("rev-parse", "--git-path", "objects").decode().strip()).resolve()
        environment = {
            "GIT_INDEX_FILE": str(Path(scratch, "index")),
            "GIT_OBJECT_DIRECTORY": str(objects),
            "GIT_ALTERNATE_OBJECT_DIRECTORIES": str(own_objects),
        }
        _git("read-tree", commit, environment=environment)
        _git("add", "--all", "--", ".", f":(exclude){REWRITTEN_BY_THE_RUN}", environment=environment)
        options = ("--cached", "--patch", "--binary", "--full-index", "--no-renames", "--no-ext-diff", "--no-textconv")
        return _git("diff-index", *options, commit, environment=environment)


def _head() -> str:
    if _git("rev-parse", "--show-cdup").strip():
        raise UserError(f"'{Path.cwd()}' is not the top of its git repository. Run from the repository's root.")
    try:
        return _git("rev-parse", "--verify", "HEAD^{commit}").decode().strip()
    except UserError:
        raise UserError("The git repository has no commit yet, and a release names one. Commit, then repeat.") from None


def _archive(commit: str) -> bytes:
    """Return the tar of the commit, with the bytes that git stores whatever the user's configuration converts."""
    plain = ("-c", "core.autocrlf=false", "-c", "core.eol=lf", "-c", "tar.umask=0022")
    return _git(*plain, "archive", "--format=tar", commit)


def _git(*arguments: str, environment: Mapping[str, str] | None = None) -> bytes:
    try:
        done = subprocess.run(["git", *arguments], env={**os.environ, **(environment or {})}, capture_output=True)
    except FileNotFoundError:
        raise UserError(
            "`git` is not installed, and a release names the commit it was made from. Install it."
        ) from None
    if done.returncode:
        reason = " ".join(done.stderr.decode(errors="replace").split())
        raise UserError(f"`git {' '.join(arguments)}` failed: {reason}. A release is made in a git checkout.")
    return done.stdout
