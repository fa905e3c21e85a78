"""Equal and nearly equal texts across all parts of the corpus: who shares a key, what is joined, who survives.

Each part of the corpus has an index on disk (`write_index`): for each band its documents' keys in ascending order,
and for each document a proof, which tells true pairs from chance: the text's digest where equal texts are looked
for, its MinHash signature for nearly equal ones. Documents are numbered through the parts, in their order.

A band is joined by itself (`join`): slices of all parts' keys, each a range of keys, are sorted together, and of
each run of equal keys the documents that agree with its first one become one set; those that do not, start the
next. No pair is looked at twice, and memory holds one slice. `forest` makes the connected components of all bands'
sets, in memory that grows by some 50 bytes for each document that has a duplicate, and not with the others.
"""

import hashlib
import itertools
import mmap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.lib.format import read_array_header_1_0, read_magic
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from stages.curation.shingles import Hashes

Numbers = NDArray[np.int64]
Survivor = Literal["first", "longest"]

SLICE_KEYS = 1 << 20
PAIRS = 1 << 14
REASONS = ("", "exact_duplicate", "near_duplicate")
KEPT, EXACT_DUPLICATE, NEAR_DUPLICATE = range(len(REASONS))


def write_index(folder: Path, name: str, rows: Numbers, keys: Hashes, proof: NDArray[Any]) -> None:
    """Write the index of a part's documents.

    Args:
        folder: The part's folder.
        name: The index's name.
        rows: Which documents of the part have keys, [m].
        keys: Their keys, [bands, m].
        proof: What must agree for a pair to be true, [documents of the part, numbers].
    """
    order = np.argsort(keys, axis=1, kind="stable")
    np.save(folder / f"{name}.keys.npy", np.take_along_axis(keys, order, axis=1))
    np.save(folder / f"{name}.rows.npy", rows.astype(np.uint32)[order])
    np.save(folder / f"{name}.proof.npy", proof)


class Index:
    """The indices of one name of all parts."""

    def __init__(self, folders: Sequence[Path], name: str) -> None:
        """Open the indices of parts, in their order."""
        self._folders, self._name = folders, name
        counts = [len(self._array(folder, "proof")) for folder in folders]
        self.offsets: Numbers = np.cumsum([0, *counts])
        """The number of each part's first document, and that of all documents, [parts + 1]."""

    def slices(self, band: int) -> Iterator[tuple[Hashes, Numbers]]:
        """Yield the band's keys in ascending order with their documents, about `SLICE_KEYS` at a time."""
        count = -(-int(self.offsets[-1]) // SLICE_KEYS)
        bounds = [index * (1 << 64) // max(count, 1) for index in range(count + 1)]
        for first, end in itertools.pairwise(bounds):
            pieces = [self._piece(part, band, first, end) for part in range(len(self._folders))]
            keys, numbers = (np.concatenate(arrays) for arrays in zip(*pieces, strict=True))
            order = np.argsort(keys, kind="stable")
            yield keys[order], numbers[order]

    def agreement(self, one: Numbers, other: Numbers) -> NDArray[np.float64]:
        """Return the fraction of the proof that is the same in both documents of each pair, [pairs]."""
        agreement = np.zeros(len(one))
        for start in range(0, len(one), PAIRS):
            block = slice(start, start + PAIRS)
            agreement[block] = (self.proof(one[block]) == self.proof(other[block])).mean(axis=1)
        return agreement

    def proof(self, numbers: Numbers) -> NDArray[Any]:
        """Return the proofs of documents, [documents, numbers]; each part's file is opened once."""
        distinct, back = np.unique(numbers, return_inverse=True)
        parts = np.searchsorted(self.offsets, distinct, side="right") - 1
        chosen, starts = np.unique(parts, return_index=True)
        runs = zip(chosen, np.split(distinct, starts[1:]), strict=False)  # of no documents there is one empty run
        pieces = [self._array(self._folders[part], "proof")[run - self.offsets[part]] for part, run in runs]
        pieces = pieces or [self._array(self._folders[0], "proof")[:0]]
        proofs: NDArray[Any] = np.concatenate(pieces)[back]
        return proofs

    def _piece(self, part: int, band: int, first: int, end: int) -> tuple[Hashes, Numbers]:
        keys = self._array(self._folders[part], "keys")[band]
        start, stop = (_position(keys, bound) for bound in (first, end))
        rows = self._array(self._folders[part], "rows")[band, start:stop]
        return np.array(keys[start:stop]), rows + self.offsets[part]

    def _array(self, folder: Path, kind: str) -> NDArray[Any]:
        """Map a file, in half the time of `np.load`, which resolves its path: each part is opened once a slice."""
        with (folder / f"{self._name}.{kind}.npy").open("rb") as file:
            read_magic(file)
            shape, _, dtype = read_array_header_1_0(file)
            buffer = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            return np.ndarray(shape, dtype, buffer, file.tell())


def join(index: Index, band: int, min_agreement: float) -> Numbers:
    """Return the documents that share a key of a band and agree, as edges of a `forest`."""
    joined = np.zeros((0, 2), np.int64)
    for keys, numbers in index.slices(band):
        pairs = _stars(index, keys, numbers, min_agreement)
        joined = forest(np.concatenate([joined, *pairs]))
    return joined


def forest(edges: Numbers) -> Numbers:
    """Return the connected components as edges from the smallest document of each to each other one, [edges, 2]."""
    nodes, back = np.unique(edges, return_inverse=True)
    ends = back.reshape(-1, 2)
    graph = coo_array((np.ones(len(ends), np.bool_), (ends[:, 0], ends[:, 1])), shape=(nodes.size, nodes.size))
    _, label = connected_components(graph, directed=False)
    _, first = np.unique(label, return_index=True)
    roots = nodes[first[label]] if nodes.size else nodes
    joined: Numbers = np.stack([roots, nodes], axis=1)[roots != nodes]
    return joined


@dataclass(frozen=True)
class Clusters:
    """The documents that have duplicates, by number, and what becomes of them.

    Attributes:
        numbers: The documents, ascending, [c].
        digest: The smallest text digest of each one's cluster, by `digest_words`: the cluster's name, [c, 4].
        reason: Why each is dropped, as a position in `REASONS`; 0 for a survivor, [c].
        agreement: With the survivor's signature, an estimate of the Jaccard similarity; 1 if the text is equal, [c].
    """

    numbers: Numbers
    digest: Hashes
    reason: NDArray[np.uint8]
    agreement: NDArray[np.float64]

    def of(self, first: int, end: int) -> "Clusters":
        """Return the part of the documents from `first` to before `end`, numbered from 0."""
        chosen = slice(*np.searchsorted(self.numbers, [first, end]))
        return Clusters(self.numbers[chosen] - first, self.digest[chosen], self.reason[chosen], self.agreement[chosen])

    def fingerprint(self) -> str:
        """Return a digest of it all."""
        arrays = (self.numbers, self.digest, self.reason, self.agreement)
        return hashlib.sha256(b"".join(array.tobytes() for array in arrays)).hexdigest()


def decide(edges: Numbers, exact: Index, near: Index | None, lengths: Index, survivor: Survivor) -> Clusters:
    """Let one document of each component survive.

    Args:
        edges: The components of equal and nearly equal texts, as `forest` returns them.
        exact: The index whose proof is the text's digest.
        near: The index whose proof is the signature, or None.
        lengths: The index whose proof is the text's length.
        survivor: `first` in the order of parts and documents, or `longest`, of which the first.
    """
    roots = np.unique(edges[:, 0])
    numbers, component = np.concatenate([roots, edges[:, 1]]), np.concatenate([roots, edges[:, 0]])
    order = np.argsort(numbers)
    numbers, component = numbers[order], component[order]
    digest = exact.proof(numbers)
    length = lengths.proof(numbers)[:, 0] if survivor == "longest" else np.zeros(numbers.size, np.int64)
    preferred = np.lexsort([numbers, -length, component])
    best = _first_of_each(component, preferred)
    smallest = _first_of_each(component, np.lexsort([*digest.T[::-1], component]))
    texts = np.unique(digest, axis=0, return_inverse=True)[1].reshape(-1)
    position = np.arange(numbers.size)
    reason = np.where(_first_of_each(texts, preferred) == position, NEAR_DUPLICATE, EXACT_DUPLICATE).astype(np.uint8)
    reason[best == position] = KEPT
    agreement = np.ones(numbers.size)
    if near is not None:
        unequal = texts != texts[best]
        agreement[unequal] = near.agreement(numbers[best[unequal]], numbers[unequal])
    return Clusters(numbers, digest[smallest], reason, agreement)


def digest_words(sha256: Sequence[str]) -> Hashes:
    """Return hex digests as numbers that sort as they do, [documents, 4]."""
    return np.frombuffer(bytes.fromhex("".join(sha256)), ">u8").reshape(-1, 4).astype(np.uint64)


def digest_text(words: Sequence[int]) -> str:
    """Return the hex digest of its numbers."""
    return "".join(f"{word:016x}" for word in words)


def _position(keys: Hashes, bound: int) -> int:
    return len(keys) if bound == 1 << 64 else int(np.searchsorted(keys, np.uint64(bound)))


def _first_of_each(group: Numbers, order: Numbers) -> Numbers:
    """Return for each element the position of its group's first element in an order, [elements]."""
    _, at, back = np.unique(group[order], return_index=True, return_inverse=True)
    first = np.empty(group.size, np.int64)
    first[order] = order[at[back]]
    return first


def _stars(index: Index, keys: Hashes, numbers: Numbers, min_agreement: float) -> Iterator[Numbers]:
    """Yield edges from the first document of each run of equal keys to those that agree, then of what remains."""
    while numbers.size:
        new = np.concatenate([[True], keys[1:] != keys[:-1]])
        leaders = numbers[np.flatnonzero(new)[np.cumsum(new) - 1]]
        followers = leaders != numbers
        keys, numbers, leaders = keys[followers], numbers[followers], leaders[followers]
        agree = index.agreement(leaders, numbers) >= min_agreement if min_agreement else np.ones(numbers.size, bool)
        yield np.stack([leaders[agree], numbers[agree]], axis=1)
        keys, numbers = keys[~agree], numbers[~agree]
