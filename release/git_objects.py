"""Git's object ids recomputed from an archive, so that a release proves which commit its code is.

Formats: git's documentation, `gitformat-pack` and "Git Internals - Git Objects" (https://git-scm.com/book).
"""

import hashlib
import tarfile
from pathlib import Path, PurePosixPath
from typing import TypeAlias

Tree: TypeAlias = "dict[str, tuple[str, str] | Tree]"


def object_id(kind: str, content: bytes, algorithm: str = "sha1") -> str:
    """Return the id of a git object of `kind` (blob, tree, commit)."""
    return hashlib.new(algorithm, f"{kind} {len(content)}\0".encode() + content).hexdigest()


def archived_commit(archive: Path) -> str | None:
    """Return the commit id that `git archive` writes into the tar's global header, None when there is none."""
    with tarfile.open(archive) as tar:
        tar.next()
        return tar.pax_headers.get("comment")


def archived_tree(archive: Path, algorithm: str = "sha1") -> str:
    """Return the id of the git tree whose archive this is.

    Raises:
        ValueError: The archive holds what a git tree without submodules cannot.
    """
    root: Tree = {}
    with tarfile.open(archive) as tar:
        for member in tar:
            if not member.isdir():
                _insert(root, PurePosixPath(member.name), _entry(tar, member, algorithm))
    return _tree_id(root, algorithm)


def _entry(tar: tarfile.TarFile, member: tarfile.TarInfo, algorithm: str) -> tuple[str, str]:
    if member.issym():
        return "120000", object_id("blob", member.linkname.encode(), algorithm)
    file = tar.extractfile(member) if member.isfile() else None
    if file is None:
        raise ValueError(f"'{member.name}' in the archive is neither a file nor a symbolic link")
    mode = "100755" if member.mode & 0o100 else "100644"
    return mode, object_id("blob", file.read(), algorithm)


def _insert(root: Tree, path: PurePosixPath, entry: tuple[str, str]) -> None:
    tree = root
    for part in path.parts[:-1]:
        child = tree.setdefault(part, {})
        if not isinstance(child, dict):
            raise ValueError(f"'{path}' in the archive lies below a file")
        tree = child
    tree[path.name] = entry


def _tree_id(tree: Tree, algorithm: str) -> str:
    lines = []
    for name, entry in tree.items():
        mode, identifier = ("40000", _tree_id(entry, algorithm)) if isinstance(entry, dict) else entry
        # Git sorts a directory as if its name ended in a slash.
        key = name.encode() + (b"/" if isinstance(entry, dict) else b"")
        lines.append((key, f"{mode} {name}\0".encode() + bytes.fromhex(identifier)))
    return object_id("tree", b"".join(line for _, line in sorted(lines)), algorithm)
