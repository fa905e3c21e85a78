"""Decides what becomes of each document, and counts: kept into a split, or dropped for a named reason."""

import hashlib
import heapq
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from stages.corpus.documents import Document, ShardWriter, size
from stages.corpus.filters import first_reason
from stages.corpus.tally import Tally
from stages.errors import UserError

Thresholds = Mapping[str, Mapping[str, Mapping[str, float]]]
DUPLICATE = "exact_duplicate"
EXCERPT_CHARACTERS = 200


def split_of(document: Document, validation: float, test: float, seed: int) -> str:
    """Return the document's split, a function of its text and the seed alone.

    So a text never moves between splits when others come or go, and equal texts are always together.
    """
    digest = hashlib.sha256(f"{seed}:{document.sha256}".encode()).digest()
    position = int.from_bytes(digest[:8], "big") / 2**64
    if position < test:
        return "test"
    return "validation" if position < test + validation else "train"


class Rejects:
    """The one place that counts dropped documents and samples them.

    The sample holds, for each reason, the `sample` documents whose ids are smallest: ids are digests, so this
    is a random sample that does not change from run to run.
    """

    def __init__(self, sample: int) -> None:
        """Sample at most `sample` documents a reason."""
        self.reasons = Tally()
        self._sample = sample
        self._heaps: dict[str, list[tuple[int, dict[str, str]]]] = {}

    def add(self, document: Document, reason: str) -> None:
        """Count a document as dropped."""
        self.reasons.add(reason, size(document))
        heap = self._heaps.setdefault(reason, [])
        row = {name: getattr(document, name) for name in ("id", "source", "domain", "origin", "license", "sha256")}
        heapq.heappush(heap, (-int(document.id, 16), {"reason": reason, **row, "excerpt": _excerpt(document)}))
        if len(heap) > self._sample:
            heapq.heappop(heap)

    def sample(self) -> Iterator[dict[str, str]]:
        """Yield the sampled rows by reason and id."""
        for reason in sorted(self._heaps):
            for _, row in sorted(self._heaps[reason], key=lambda item: -item[0]):
                yield row


class Kept:
    """Counts of what was kept, by split and in each split by domain, source and license."""

    def __init__(self) -> None:
        """Start at zero."""
        self.total = Tally()
        self._by: dict[str, dict[str, Tally]] = {}

    def add(self, document: Document, split: str) -> None:
        """Count a document in its split."""
        length = size(document)
        self.total.add(split, length)
        groups = self._by.setdefault(split, {name: Tally() for name in ("domain", "source", "license")})
        for name, tally in groups.items():
            tally.add(getattr(document, name), length)

    def report(self) -> dict[str, Any]:
        """Return the counts: by split, the total and by domain, source and license."""
        return {
            split: {**total, "by": {name: tally.by_group() for name, tally in self._by[split].items()}}
            for split, total in self.total.by_group().items()
        }


def keep(documents: Iterable[Document], filters: Thresholds, rejects: Rejects) -> Iterator[Document]:
    """Yield the documents that pass their domain's filters and whose text was not yielded before.

    Of equal texts the first survives, in the order of source and origin. Filters come before deduplication,
    so that a text survives if the filters of any of its copies' domains keep it. Memory grows by 32 bytes a
    document, not with the text.

    Raises:
        UserError: A document's domain has no entry in `filters`.
    """
    seen: set[bytes] = set()
    for document in documents:
        if document.domain not in filters:
            raise UserError(
                f"curate.filters has no '{document.domain}', the domain of source '{document.source}'. "
                f"Add its filters; `{document.domain}: {{}}` keeps everything."
            )
        digest = bytes.fromhex(document.sha256)
        if reason := first_reason(document.text, filters[document.domain]):
            rejects.add(document, reason)
        elif digest in seen:
            rejects.add(document, DUPLICATE)
        else:
            seen.add(digest)
            yield document


def write_splits(documents: Iterable[Document], validation: float, test: float, seed: int, folder: Path) -> Kept:
    """Write each document to `<folder>/<split>/<domain>-00000.parquet` and on; return the counts."""
    kept = Kept()
    writers: dict[tuple[str, str], ShardWriter] = {}
    with ExitStack() as stack:
        for document in documents:
            split = split_of(document, validation, test, seed)
            key = (split, document.domain)
            if key not in writers:
                writers[key] = stack.enter_context(ShardWriter(folder / split, document.domain))
            writers[key].add(document)
            kept.add(document, split)
    return kept


def _excerpt(document: Document) -> str:
    return document.text[:EXCERPT_CHARACTERS]
