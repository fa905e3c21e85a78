from collections import defaultdict
from itertools import combinations
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stages.corpus.documents import text_digest
from stages.curation import duplicates
from stages.curation.duplicates import (
    EXACT_DUPLICATE,
    KEPT,
    NEAR_DUPLICATE,
    Clusters,
    Index,
    decide,
    digest_text,
    digest_words,
    forest,
    join,
    write_index,
)
from stages.curation.shingles import Hashes, mixed

EDGES = st.lists(st.tuples(st.integers(0, 12), st.integers(0, 12)), max_size=20)
KEYS = st.lists(st.lists(st.integers(0, 4), max_size=12), min_size=1, max_size=4)  # of documents, by part
PROOF_WIDTH = 3


def index(folder: Path, name: str, parts: list[np.ndarray]) -> Index:
    """Write proofs, [documents, numbers] of each part, whose first number is the key."""
    folders = []
    for number, proof in enumerate(parts):
        folders.append(folder / str(number))
        folders[-1].mkdir(exist_ok=True)
        write_index(folders[-1], name, np.arange(len(proof)), mixed(proof[:, :1].T.astype(np.uint64)), proof)
    return Index(folders, name)


def proofs(keys: list[list[int]]) -> list[Hashes]:
    """Return proofs of which a third agrees if the keys do, and all if the keys and the places' parity do."""
    return [
        np.array([[key, at % 2, at % 2] for at, key in enumerate(part)], np.uint64).reshape(-1, PROOF_WIDTH)
        for part in keys
    ]


def components(nodes: int, edges: list[tuple[int, int]]) -> set[frozenset[int]]:
    """Return the connected components of two nodes and more, by merging sets."""
    owner = {node: {node} for node in range(nodes)}
    for one, other in edges:
        union = owner[one] | owner[other]
        owner.update(dict.fromkeys(union, union))
    return {frozenset(each) for each in owner.values() if len(each) > 1}


def of_forest(edges: np.ndarray) -> set[frozenset[int]]:
    trees: dict[int, set[int]] = defaultdict(set)
    for root, node in edges.tolist():
        assert root < node
        trees[root] |= {root, node}
    return {frozenset(tree) for tree in trees.values()}


@given(EDGES)
def test_a_forest_has_the_connected_components(edges: list[tuple[int, int]]) -> None:
    assert of_forest(forest(np.array(edges, np.int64).reshape(-1, 2))) == components(13, edges)


@settings(deadline=None, max_examples=40)
@given(keys=KEYS, slice_keys=st.integers(1, 8), agreement=st.sampled_from([0.0, 0.5, 1.0]))
def test_joined_is_what_shares_a_key_and_agrees(keys: list[list[int]], slice_keys: int, agreement: float) -> None:
    proof = np.concatenate(proofs(keys))
    true = [
        (one, other)
        for one, other in combinations(range(len(proof)), 2)
        if proof[one, 0] == proof[other, 0] and (proof[one] == proof[other]).mean() >= agreement
    ]
    with TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(duplicates, "SLICE_KEYS", slice_keys)
        patch.setattr(duplicates, "PAIRS", 2)
        found = join(index(Path(folder), "near", proofs(keys)), 0, agreement)
    assert of_forest(found) == components(len(proof), true)


def test_slices_are_all_keys_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(duplicates, "SLICE_KEYS", 100)
    parts = [np.random.default_rng(part).integers(0, 500, (300, 1)).astype(np.uint64) for part in range(5)]
    slices = list(index(tmp_path, "near", parts).slices(0))
    keys, numbers = (np.concatenate(arrays) for arrays in zip(*slices, strict=True))
    assert keys.tolist() == sorted(mixed(np.concatenate(parts)[:, 0]).tolist())
    assert mixed(np.concatenate(parts)[numbers, 0]).tolist() == keys.tolist()
    assert max(len(each) for each, _ in slices) < 200


TEXTS = ["near b", "a text", "near b!!", "another", "a text", "near b", "alone"]
SAME = [(1, 4), (0, 5)]


def decided(folder: Path, survivor: duplicates.Survivor, cut: int = 3) -> Clusters:
    """Return what becomes of `TEXTS`, in two parts, of which 0, 2 and 5 are nearly equal."""
    digests = digest_words([text_digest(text) for text in TEXTS])
    lengths = np.array([[len(text)] for text in TEXTS])
    signatures = np.array([[1, 1, 1, 1], [2] * 4, [1, 1, 1, 0], [3] * 4, [2] * 4, [1] * 4, [4] * 4], np.uint32)
    near, exact, length = (
        index(folder, name, [proof[:cut], proof[cut:]])
        for name, proof in (("near", signatures), ("exact", digests), ("length", lengths))
    )
    edges = forest(np.concatenate([join(exact, 0, 1.0), join(near, 0, 0.7)]))
    return decide(edges, exact, near, length, survivor)


def test_the_first_or_the_longest_text_of_a_cluster_survives(tmp_path: Path) -> None:
    first, longest = decided(tmp_path, "first"), decided(tmp_path, "longest")
    assert first.numbers.tolist() == longest.numbers.tolist() == [0, 1, 2, 4, 5]
    assert first.reason.tolist() == [KEPT, KEPT, NEAR_DUPLICATE, EXACT_DUPLICATE, EXACT_DUPLICATE]
    assert longest.reason.tolist() == [NEAR_DUPLICATE, KEPT, KEPT, EXACT_DUPLICATE, EXACT_DUPLICATE]
    assert first.agreement.tolist() == [1, 1, 0.75, 1, 1]


def test_a_cluster_is_named_by_its_smallest_digest_whoever_survives(tmp_path: Path) -> None:
    near = min(text_digest(TEXTS[number]) for number in (0, 2, 5))
    equal = text_digest(TEXTS[1])
    for survivor in ("first", "longest"):
        names = [digest_text(words) for words in decided(tmp_path, survivor).digest.tolist()]
        assert names == [near, equal, near, equal, near]


@pytest.mark.parametrize("cut", range(len(TEXTS) + 1))
def test_where_parts_begin_does_not_count(cut: int, tmp_path: Path) -> None:
    clusters = decided(tmp_path, "first", cut)
    assert clusters.fingerprint() == decided(tmp_path, "first").fingerprint()
    halves = [clusters.of(0, cut), clusters.of(cut, len(TEXTS))]
    assert [*halves[0].numbers, *(halves[1].numbers + cut)] == clusters.numbers.tolist()


@given(st.lists(st.binary(min_size=32, max_size=32), min_size=1, max_size=8))
def test_digests_sort_as_numbers_as_they_do_in_hex(digests: list[bytes]) -> None:
    numbers = digest_words([digest.hex() for digest in digests])
    order = np.lexsort(numbers.T[::-1])
    assert [digests[at] for at in order] == sorted(digests)
    assert [digest_text(words) for words in numbers.tolist()] == [digest.hex() for digest in digests]
