"""Files that a source names, wherever they are: a store lists them, and brings each whole to the disk.

A file is checked against its size and digest before its first document is read, so nothing comes of a file that
was cut short or changed. Hence whole files instead of streams, which no digest of a whole can vouch for while they
are read: memory holds a block, the disk a file of a source by reference; of one that is copied, all that was fetched,
until the source is taken, for another attempt.
"""

import hashlib
import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

from stages.corpus import texts
from stages.corpus.candidates import Candidate, Reading, Reference
from stages.corpus.sources import Texts
from stages.errors import UserError

COMMIT = re.compile(r"[0-9a-f]{40}")
_BLOCK = 1 << 20


class Listing(NamedTuple):
    """The files that a source selects.

    Attributes:
        versions: Exact versions of what is read, by name.
        files: The files, in the order of their paths.
        skipped: Why a selected entry is not read, by its path: a link, a submodule.
    """

    versions: dict[str, str]
    files: tuple[Reference, ...]
    skipped: dict[str, str]


class Store(ABC):
    """The files of one source; a context manager, so that a store can hold a process or a connection."""

    def __init__(self, where: str) -> None:
        """Belong to `where`, for messages: `data set 'a/b' at 1234…`."""
        self.where = where
        self.closing = ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.closing.close()

    @abstractmethod
    def listing(self) -> Listing:
        """Return what the source selects.

        Raises:
            UserError: The store cannot be asked, has no such files, or is not pinned.
        """

    @abstractmethod
    def fetch(self, file: Reference) -> Path:
        """Return a file on this machine that is said to be `file`; what an earlier attempt left is gone on from.

        Raises:
            UserError: It cannot be had.
        """

    def forget(self, path: Path) -> None:
        """Remove what `fetch` brought; a store of files that were here before leaves them."""
        path.unlink(missing_ok=True)


def reading(store: Store, source: Texts) -> Reading:
    """Open a store for reading into a snapshot; fetched files stay, for the next attempt if this one fails."""
    listed = store.listing()
    return Reading(listed.versions, _candidates(store, source, listed.files), listed.files, listed.skipped)


def _candidates(store: Store, source: Texts, listed: Iterable[Reference]) -> Iterator[Candidate]:
    with store:
        for file in listed:
            yield from texts.of_file(source, fetched(store, file), file.path)


def fetched(store: Store, file: Reference) -> Path:
    """Return the file on this machine, with the size and digest that `file` says.

    Raises:
        UserError: It cannot be had, or it is another; then it is removed, so that a retry fetches it anew.
    """
    path = store.fetch(file)
    size = path.stat().st_size
    digest = file_digest(path, size, file.digest.partition(":")[0])
    if digest == file.digest and file.size in (None, size):
        return path
    store.forget(path)
    expected = "" if file.size is None else f" ({file.size} bytes)"
    raise UserError(
        f"'{file.path}' of {store.where} is {digest} ({size} bytes), not the pinned {file.digest}{expected}. "
        "Repeat in case it was damaged on the way; else bring the pinned file back, or pin this one."
    )


def file_digest(path: Path, size: int, algorithm: str) -> str:
    """Return `<algorithm>:<hex>` of a file of `size` bytes; `git-blob` is git's id of a blob, by SHA-1."""
    hasher: Any = hashlib.sha1(b"blob %d\0" % size) if algorithm == "git-blob" else hashlib.new(algorithm)
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            hasher.update(block)
    return f"{algorithm}:{hasher.hexdigest()}"
