"""Curates a snapshot, part by part, on one machine or many: chains, deduplication across all of it, splits.

The pieces of work (`stages.curation.parts`) are keyed by everything that they depend on: the digest of the shard, or
what the snapshot says of files elsewhere; the settings that apply to it, which pin the files that they name; and the
code. So a run that was killed goes on where it was, and when a source or a threshold changes, only the shards that it
touches are put through their chains again.
"""

import hashlib
import json
import os
import sys
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from stages.corpus.tally import Count, total
from stages.curation.duplicates import Clusters, Index, decide, forest
from stages.curation.engine import Workers, prune, run
from stages.curation.minhash import Deduplication
from stages.curation.parts import EXACT, LENGTH, NEAR, TRAIL, AnyPart, Join, Settle, Sift
from stages.curation.referred import ENCODINGS, Referred
from stages.curation.split import SPLITS, Split
from stages.files import read_json, sha256_file

ROOT = Path(__file__).parents[2]
CODE = ("stages/curation/**/*", "stages/corpus/*", "stages/formats/*", "requirements.lock")
"""The files that results depend on."""
Encodings = dict[str, dict[str, Count]]


def curate(
    parts: Sequence[AnyPart], duplicates: Deduplication, split: Split, workers: Workers, scratch: Path, folder: Path
) -> Encodings:
    """Curate the parts.

    Writes `documents/<split>/<domain>-<part>.parquet` and `trail/<part>.parquet`. The bytes are a function of the
    parts, their order and the settings; neither the engine nor what an earlier run left in `scratch` matters.

    Args:
        parts: The documents of the snapshot, in the order of sources and of documents.
        duplicates: Who survives.
        split: The held-out fractions.
        workers: Who does the work.
        scratch: Where results of pieces are kept from run to run; on the same file system as `folder`.
        folder: Where the documents and the trail go.

    Returns:
        Documents and bytes of each source that is taken by reference, by the encoding that they were read from.

    Raises:
        UserError: A step refuses, or workers are killed again and again.
    """
    sifts = [(_sift_key(part, duplicates), Sift(part, duplicates.near)) for part in parts]
    sifted = run(sifts, scratch, workers)
    joined, clusters = _clusters(sifted, duplicates, scratch, workers)
    settled = _settle(parts, sifted, clusters, split, scratch, workers)
    for number, (part, result) in enumerate(zip(parts, settled, strict=True)):
        _publish(result, part.domain, number, folder)
    encodings = _encodings(parts, sifted)
    prune(scratch, [*sifted, *joined, *settled])
    return encodings


def _clusters(
    sifted: Sequence[Path], duplicates: Deduplication, scratch: Path, workers: Workers
) -> tuple[list[Path], list[Clusters]]:
    """Return the results that the clusters were made from, and each part's documents that have duplicates."""
    near = duplicates.near
    bands = [(EXACT, 0, 1.0)] + ([(NEAR, band, near.min_agreement) for band in range(near.bands)] if near else [])
    keys = [result.name for result in sifted]
    joined = run([(_key("join", keys, band), Join(tuple(sifted), *band)) for band in bands], scratch, workers)
    edges = np.zeros((0, 2), np.int64)
    for result in joined:
        edges = forest(np.concatenate([edges, np.load(result / "edges.npy")]))
    exact, lengths = Index(sifted, EXACT), Index(sifted, LENGTH)
    fates = decide(edges, exact, Index(sifted, NEAR) if near else None, lengths, duplicates.survivor)
    bounds = zip(exact.offsets[:-1], exact.offsets[1:], strict=True)
    return joined, [fates.of(first, end) for first, end in bounds]


def _settle(
    parts: Sequence[AnyPart],
    sifted: Sequence[Path],
    clusters: Sequence[Clusters],
    split: Split,
    scratch: Path,
    workers: Workers,
) -> list[Path]:
    work = [
        (_key("settle", result.name, fates.fingerprint(), split), Settle(result, part.domain, fates, split))
        for part, result, fates in zip(parts, sifted, clusters, strict=True)
    ]
    return run(work, scratch, workers)


def _publish(result: Path, domain: str, number: int, folder: Path) -> None:
    """Link a part's results into the output, under names that say which part they are of."""
    for split in SPLITS:
        for shard in (result / split).glob("*.parquet"):
            _link(shard, folder / "documents" / split / f"{domain}-{number:05d}.parquet")
    _link(result / TRAIL, folder / "trail" / f"{number:05d}.parquet")


def _link(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    source.chmod(0o444)  # who writes into the output must not change what later runs take from the scratch folder
    os.link(source, target)


def _encodings(parts: Sequence[AnyPart], sifted: Sequence[Path]) -> Encodings:
    found: Encodings = {}
    for part, result in zip(parts, sifted, strict=True):
        if isinstance(part, Referred):
            own = found.setdefault(part.source, {})
            for encoding, count in read_json(result / ENCODINGS).items():
                before = own.get(encoding, Count(documents=0, bytes=0))
                own[encoding] = total([before, count])
    return found


def _sift_key(part: AnyPart, duplicates: Deduplication) -> str:
    return _key("sift", part.sha256, part.domain, part.chain, duplicates.near)


def _key(*values: Any) -> str:
    """Return a digest of what a piece of work depends on."""
    text = json.dumps([_code(), *values], sort_keys=True, default=lambda settings: settings.model_dump(mode="json"))
    return hashlib.sha256(text.encode()).hexdigest()[:32]


@cache
def _code() -> str:
    """Return a digest of the code that the results depend on."""
    files = sorted(path for pattern in CODE for path in ROOT.glob(pattern) if path.is_file() and path.suffix != ".pyc")
    lines = [f"{sha256_file(path)}  {path.relative_to(ROOT).as_posix()}\n" for path in files]
    return hashlib.sha256("".join([sys.version, *lines]).encode()).hexdigest()
