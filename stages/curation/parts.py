"""The work of curation, in pieces: what is done to one shard of the snapshot, to one band, and to one shard again."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from stages.corpus.documents import Document, ShardWriter, batches, read, size
from stages.curation import trail
from stages.curation.chain import Chain, Event
from stages.curation.duplicates import REASONS, Clusters, Index, digest_text, digest_words, join, write_index
from stages.curation.minhash import NO_WORDS, MinHash, band_keys, signature
from stages.curation.referred import Referred
from stages.curation.split import SPLITS, Split, SplitName

STEP = "duplicates"
EXACT, NEAR, LENGTH = "exact", "near", "length"  # names of the indices
TRAIL = "trail.parquet"
_WHOLE = 1 << 62  # bytes of a shard: however many the part has


@dataclass(frozen=True)
class Part:
    """One shard of the snapshot; its documents are of one source and one domain.

    Attributes:
        path: The shard.
        sha256: Its digest.
        domain: The domain of its documents.
        chain: What they go through.
    """

    path: Path
    sha256: str
    domain: str
    chain: Chain

    def batches(self, _folder: Path, _refuse: Callable[[dict[str, Any]], object]) -> Iterator[list[Document]]:
        """Yield the documents, all of which the license gate has admitted."""
        return batches(read([self.path]))


AnyPart = Part | Referred


@dataclass(frozen=True)
class Sift:
    """Puts a part through its chain: writes what is kept, a row for every document, and the indices of duplicates."""

    part: AnyPart
    near: MinHash | None

    def __call__(self, folder: Path) -> None:
        """Do it; memory holds a batch of documents, and the keys of the part."""
        chain = self.part.chain.build()
        marks = _Marks(self.near)
        with ShardWriter(folder, "kept", _WHOLE) as kept, trail.TrailWriter(folder / TRAIL) as rows:

            def refuse(facts: dict[str, Any]) -> None:
                rows.add(trail.refused(facts, self.part.domain))

            for batch in self.part.batches(folder, refuse):
                outcomes = chain(batch)
                for before, outcome in zip(batch, outcomes, strict=True):
                    rows.add(trail.row(before, outcome))
                survivors = [outcome.document for outcome in outcomes if outcome.reason is None]
                for document in survivors:
                    kept.add(document)
                marks.add(survivors)
        marks.write(folder)


@dataclass(frozen=True)
class Join:
    """Joins the documents of all parts that share a key of one band."""

    folders: tuple[Path, ...]
    index: str
    band: int
    min_agreement: float

    def __call__(self, folder: Path) -> None:
        """Do it; memory holds a slice of the keys, and what is joined."""
        np.save(folder / "edges.npy", join(Index(self.folders, self.index), self.band, self.min_agreement))


@dataclass(frozen=True)
class Settle:
    """Writes a part's survivors of deduplication to their splits, and what became of each of its documents.

    The documents of a split, and the rows of those documents, are in the same order.
    """

    folder: Path
    domain: str
    clusters: Clusters
    split: Split

    def __call__(self, folder: Path) -> None:
        """Do it; memory holds a batch of documents."""
        fates = _fates(self.clusters)
        documents = enumerate(read(sorted(self.folder.glob("kept-*.parquet"))))
        with ExitStack() as stack:
            rows = stack.enter_context(trail.TrailWriter(folder / TRAIL))
            shards = {name: stack.enter_context(ShardWriter(folder / name, self.domain, _WHOLE)) for name in SPLITS}
            for entry in trail.rows(self.folder / TRAIL):
                if entry["outcome"] == trail.KEPT:
                    number, document = next(documents)
                    self._settle(entry, document, fates.get(number), shards)
                rows.add(entry)

    def _settle(
        self, entry: dict[str, Any], document: Document, fate: "_Fate | None", shards: Mapping[SplitName, ShardWriter]
    ) -> None:
        entry["cluster"] = fate.cluster if fate else None
        if fate and fate.reason:
            event = Event(STEP, fate.reason, {"agreement": fate.agreement}, False, ())
            trail.drop(entry, event, document.text)
        else:
            split = self.split.of(fate.cluster if fate else document.sha256)
            entry["split"] = split
            shards[split].add(document)


class _Fate(NamedTuple):
    """What becomes of a document that has duplicates; the reason is empty for a survivor."""

    cluster: str
    reason: str
    agreement: float


def _fates(clusters: Clusters) -> dict[int, _Fate]:
    columns = (clusters.numbers, clusters.digest, clusters.reason, clusters.agreement)
    rows = zip(*(column.tolist() for column in columns), strict=True)
    return {number: _Fate(digest_text(words), REASONS[reason], agreement) for number, words, reason, agreement in rows}


class _Marks:
    """What the kept documents of a part are recognised by: 600 bytes each with 14 bands of 8."""

    def __init__(self, near: MinHash | None) -> None:
        self._near = near
        self._permutations = near.permutations() if near else np.zeros(0, np.uint64)
        self._lengths: list[int] = []
        self._digests = [np.zeros((0, 4), np.uint64)]
        self._keys = [np.zeros((near.bands if near else 0, 0), np.uint64)]
        self._proofs = [np.zeros((0, self._permutations.size), np.uint32)]
        self._worded = [np.zeros(0, np.bool_)]

    def add(self, documents: Sequence[Document]) -> None:
        """Note a batch."""
        self._lengths.extend(map(size, documents))
        self._digests.append(digest_words([document.sha256 for document in documents]))
        if self._near and documents:
            found = [signature(document.text, self._near.ngram, self._permutations) for document in documents]
            signatures = np.stack(found)
            worded = signatures[:, 0] != NO_WORDS
            self._worded.append(worded)
            self._keys.append(band_keys(signatures[worded], self._near.rows))
            self._proofs.append((signatures >> np.uint64(32)).astype(np.uint32))

    def write(self, folder: Path) -> None:
        """Write the indices."""
        digests = np.concatenate(self._digests)
        every = np.arange(len(digests))
        lengths = np.array(self._lengths, np.int64)[:, None]
        write_index(folder, EXACT, every, digests[:, :1].T, digests)
        write_index(folder, LENGTH, every[:0], np.zeros((0, 0), np.uint64), lengths)
        if self._near:
            worded = np.flatnonzero(np.concatenate(self._worded))
            write_index(folder, NEAR, worded, np.concatenate(self._keys, axis=1), np.concatenate(self._proofs))
