"""The check of a release's code: the archive is the named commit's, and with the patch it is what dvc.lock ran."""

import os
import subprocess
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path

from release import git_objects, layout, lock
from stages.files import OUT
from stages.settings import read_yaml


def source(root: Path) -> Iterator[str]:
    """The archive's git ids lead to the commit; with the patch applied it has the files that dvc.lock names."""
    code = root / "code"
    yield from _commit(code)
    with tempfile.TemporaryDirectory() as scratch:
        tree = Path(scratch, "tree")
        with tarfile.open(code / "source.tar.gz") as tar:
            tar.extractall(tree, filter="data")
        if (code / "uncommitted.diff").exists() and (fault := _apply(code / "uncommitted.diff", tree)):
            yield f"code/uncommitted.diff does not apply to code/source.tar.gz: {fault}"
            return
        for place, path in layout.CODE.items():
            if not (tree / path).is_file() or (tree / path).read_bytes() != (root / place).read_bytes():
                yield f"{place} is not '{path}' of code/source.tar.gz with its patch"
        yield from _ran(code, tree)


def _commit(code: Path) -> Iterator[str]:
    stated, content = (code / "commit.txt").read_bytes().split(b"\n", 1)
    commit = stated.decode()
    algorithm = "sha1" if len(commit) == 40 else "sha256"
    if git_objects.object_id("commit", content, algorithm) != commit:
        yield f"code/commit.txt: its commit object is not {commit}"
    tree = git_objects.archived_tree(code / "source.tar.gz", algorithm)
    if content.split(b"\n", 1)[0] != f"tree {tree}".encode():
        yield f"code/source.tar.gz: its tree is {tree}, not that of commit {commit}"


def _apply(patch: Path, tree: Path) -> str:
    """Apply the patch; return what git says when it does not apply."""
    environment = {**os.environ, "GIT_CEILING_DIRECTORIES": str(tree.parent)}
    command = ["git", "apply", "--whitespace=nowarn", str(patch.resolve())]
    done = subprocess.run(command, cwd=tree, env=environment, capture_output=True)
    return " ".join(done.stderr.decode(errors="replace").split())[:300] if done.returncode else ""


def _ran(code: Path, tree: Path) -> Iterator[str]:
    """Compare the dependencies of every stage that are files of the source with what is in the tree."""
    for stage, path, md5 in lock.entries(read_yaml(code / "dvc.lock"), "deps"):
        if Path(path).parts[0] != OUT.name and (tree / path).is_file() and lock.md5_file(tree / path) != md5:
            yield f"code/dvc.lock: stage '{stage}' ran another '{path}' than the source here"
