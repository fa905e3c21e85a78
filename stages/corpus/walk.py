"""The files below a folder, links followed."""

import os
from collections.abc import Iterator
from pathlib import Path

_Place = tuple[int, int]  # device and inode: what a folder is, whatever leads to it


def entries_below(root: Path) -> Iterator[str]:
    """Yield the relative POSIX paths of the files below `root`; links to files and folders are followed.

    A link that leads nowhere, or to a folder that it lies in, is yielded as a path that is no file: it adds no
    files, and whoever selects it should hear of it.
    """
    yield from _below(root, "", frozenset())


def _below(folder: Path, prefix: str, above: frozenset[_Place]) -> Iterator[str]:
    status = folder.stat()
    place = status.st_dev, status.st_ino
    if place in above:
        yield prefix
        return
    with os.scandir(folder) as found:
        entries = sorted(found, key=lambda entry: entry.name)
    for entry in entries:
        path = f"{prefix}/{entry.name}" if prefix else entry.name
        target = Path(entry.path) if entry.is_symlink() else entry  # a DirEntry fails at a link to itself
        if target.is_dir():
            yield from _below(folder / entry.name, path, above | {place})
        elif target.is_file() or entry.is_symlink():
            yield path
