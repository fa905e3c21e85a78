"""Documents that curation reads from where they are: of files that the snapshot names instead of copying them."""

import hashlib
import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stages.corpus.candidates import Reference
from stages.corpus.documents import Document, batches
from stages.curation.chain import Chain
from stages.errors import UserError
from stages.files import write_json

if TYPE_CHECKING:  # its clients of hubs and servers take a second to import, in each worker
    from stages.corpus.references import Referring

ENCODINGS = "encodings.json"
_SELECTION = {"sha256", "include", "exclude"}  # what decides which files there are, not what is in them


@dataclass(frozen=True)
class Referred:
    """Files of one source, which are curated together.

    Attributes:
        source: The source's name.
        settings: Its settings.
        files: The files, as the snapshot's list has them.
        allowed: The licenses that are admitted.
        longest: UTF-8 bytes that a document may have.
        chain: What the documents go through.
    """

    source: str
    settings: "Referring"
    files: tuple[Reference, ...]
    allowed: frozenset[str]
    longest: int
    chain: Chain

    @property
    def domain(self) -> str:
        """The domain of the documents."""
        return self.settings.domain

    @property
    def sha256(self) -> str:
        """A digest of all that decides which documents there are, before the chain."""
        settings = {name: value for name, value in self.settings.public().items() if name not in _SELECTION}
        files = [(file.path, file.digest) for file in self.files]
        facts = [self.source, settings, files, sorted(self.allowed), self.longest]
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()

    def batches(self, folder: Path, refuse: Callable[[dict[str, Any]], object]) -> Iterator[list[Document]]:
        """Yield the documents that the license gate admits.

        Args:
            folder: Gets, in the end, documents and bytes by the encoding that they were read from; and what is fetched
                in the meantime, a file at a time.
            refuse: Takes what the gate says of each text that it does not admit, before the batch that follows it.

        Raises:
            UserError: A file cannot be had or is not the one that the snapshot names, or a text is too long.
        """
        from stages.corpus.gate import Record
        from stages.corpus.references import documents

        record, fetched = Record(refuse), folder / "fetched"
        facts = self.source, self.settings, self.files, self.allowed, self.longest
        try:
            yield from batches(documents(*facts, fetched, record))
        except UserError as error:
            raise UserError(f"Source '{self.source}': {error}") from error
        shutil.rmtree(fetched, ignore_errors=True)
        write_json(folder / ENCODINGS, record.encodings.by_group())


def grouped(settings: "Referring", files: Sequence[Reference], limit: int) -> Iterator[tuple[Reference, ...]]:
    """Yield the files in order, in groups of up to `limit` bytes in all; a file that is longer is a group.

    A git repository is one group: whoever reads a file of it fetches the commit.
    """
    group: list[Reference] = []
    total = 0
    for file in files:
        size = limit if file.size is None else file.size
        if group and total + size > limit and settings.kind != "git":
            yield tuple(group)
            group, total = [], 0
        group.append(file)
        total += size
    if group:
        yield tuple(group)
