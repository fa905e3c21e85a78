"""Files that a snapshot names instead of copying: their list, and the documents that later stages read from them.

A line of `references/<source>.jsonl` is a `stages.corpus.candidates.Reference`: path, size, digest, etag, revision.
Reading goes file by file. A file whose size or digest is not the listed one ends the stage before a document of it
is read, so a later stage works on exactly what the snapshot named, or not at all.
"""

import hashlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from stages.corpus import texts
from stages.corpus.candidates import Reference
from stages.corpus.documents import Document
from stages.corpus.folders import FolderStore
from stages.corpus.gate import Record, admit
from stages.corpus.git import GitStore
from stages.corpus.hub import HubStore
from stages.corpus.sources import FilesSource, GitSource, HubSource, UrlSource
from stages.corpus.stores import Store, fetched
from stages.corpus.url import UrlStore
from stages.files import read_jsonl, write_jsonl

Referring = FilesSource | GitSource | HubSource | UrlSource
_STORES: dict[str, Callable[[Any, Path], Store]] = {
    "files": FolderStore,
    "git": GitStore,
    "hub": HubStore,
    "url": UrlStore,
}


def store(source: Referring, folder: Path) -> Store:
    """Return the store that has a source's files; what it fetches lies below `folder`."""
    return _STORES[source.kind](source, folder)


def write(path: Path, listed: Iterable[Reference]) -> None:
    """Write the list, a line a file."""
    write_jsonl(path, (asdict(file) for file in listed))


def read(path: Path) -> list[Reference]:
    """Return the list that `write` wrote."""
    return [Reference(**row) for row in read_jsonl(path)]


def digest(listed: Iterable[Reference]) -> str:
    """Return SHA-256 over a line `<digest>  <path>` for each file in order: the `sha256` of a source by reference."""
    lines = "".join(f"{file.digest}  {file.path}\n" for file in listed)
    return hashlib.sha256(lines.encode()).hexdigest()


def documents(
    name: str,
    source: Referring,
    listed: Iterable[Reference],
    allowed: frozenset[str],
    shard_bytes: int,
    folder: Path,
    record: Record,
) -> Iterator[Document]:
    """Yield the documents of files that a snapshot names; they are those that it would have copied.

    Args:
        name: The source's name in params.yaml.
        source: Its settings there.
        listed: Some or all of its files, from `read`.
        allowed: The licenses that are admitted.
        shard_bytes: The longest document, in UTF-8 bytes.
        folder: For what is fetched: a file at a time, removed when it is read.
        record: Gets the counts, and the refused.

    Raises:
        UserError: A file cannot be had, is not the listed one, or a document does not fit.
    """
    with store(source, folder) as opened:
        for file in listed:
            path = fetched(opened, file)
            yield from admit(name, source, texts.of_file(source, path, file.path), allowed, shard_bytes, record)
            opened.forget(path)
