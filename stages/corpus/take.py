"""Takes a source into a snapshot: reads it, puts each text through the license gate, writes, counts, digests."""

import hashlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from stages.corpus import files, installed
from stages.corpus.candidates import Candidate, Reading
from stages.corpus.documents import Document, ShardWriter, document_id, text_digest
from stages.corpus.licenses import refusal, stated
from stages.corpus.sources import Source
from stages.corpus.tally import Tally
from stages.errors import UserError

# A new kind of source is a settings class in stages.corpus.sources and its reader here.
READERS: dict[str, Callable[[Any], Reading]] = {"files": files.read, "installed": installed.read}


@dataclass
class Taken:
    """What came of one source.

    Attributes:
        name: The source's name.
        manifest: Its entry in manifest.json.
        refused: One row a refused document, in order.
    """

    name: str
    manifest: dict[str, Any]
    refused: list[dict[str, str]]


@dataclass
class _Record:
    """What is noted while a source streams by."""

    digest: Any = field(default_factory=hashlib.sha256)
    admitted: Tally = field(default_factory=Tally)
    reasons: Tally = field(default_factory=Tally)
    refused: list[dict[str, str]] = field(default_factory=list)


def take(name: str, source: Source, allowed: frozenset[str], shard_bytes: int, folder: Path) -> Taken:
    """Write the admitted documents of a source to `folder` and return what came of it.

    Raises:
        UserError: The source cannot be read, is empty, or is not the pinned one.
    """
    _check_license(name, source)
    reading = READERS[source.kind](source)
    record = _Record()
    with ShardWriter(folder, name, shard_bytes) as writer:
        for document in _admit(name, source, reading.candidates, allowed, shard_bytes, record):
            writer.add(document)
    digest = record.digest.hexdigest()
    _check_whole(name, source, record, digest)
    manifest = {
        "settings": source.model_dump(mode="json", exclude={"root"}),
        "versions": reading.versions,
        "sha256": digest,
        **record.admitted.total(),
        "licenses": record.admitted.by_group(),
        "refused": record.reasons.by_group(),
        "files": writer.files(),
    }
    return Taken(name, manifest, record.refused)


def _admit(
    name: str,
    source: Source,
    candidates: Iterable[Candidate],
    allowed: frozenset[str],
    shard_bytes: int,
    record: _Record,
) -> Iterator[Document]:
    for candidate in candidates:
        sha256 = text_digest(candidate.text)
        length = _fitting_length(candidate, shard_bytes)
        terms, origin = candidate.license, candidate.origin
        record.digest.update(f"{sha256}  {terms.expression}  {origin}\n".encode())
        if reason := refusal(terms, allowed):
            record.reasons.add(reason, length)
            record.refused.append(
                {"source": name, "origin": origin, "license": terms.expression, "reason": reason, "sha256": sha256}
            )
            continue
        record.admitted.add(terms.expression, length)
        identity = document_id(name, origin, sha256)
        yield Document(identity, candidate.text, source.domain, name, origin, terms.expression, sha256)


def _fitting_length(candidate: Candidate, shard_bytes: int) -> int:
    """Return the text's length in UTF-8 bytes, which is at most `shard_bytes`."""
    length = len(candidate.text.encode())
    if length > shard_bytes:
        raise UserError(
            f"'{candidate.origin}' has {length} bytes, more than snapshot.shard_bytes = {shard_bytes}. "
            "Raise it, or add the file to the source's `exclude`."
        )
    return length


def _check_license(name: str, source: Source) -> None:
    if source.license not in (None, "metadata") and stated(source.license).problem:
        raise UserError(
            f"snapshot.sources.{name}.license = '{source.license}' is not an SPDX expression. "
            "Take its identifiers from https://spdx.org/licenses."
        )


def _check_whole(name: str, source: Source, record: _Record, digest: str) -> None:
    key = f"snapshot.sources.{name}"
    if not record.admitted.groups() and not record.reasons.groups():
        raise UserError(f"{key} is empty: nothing matches its `include` and `exclude`. Correct them.")
    if source.sha256 is None and source.kind == "files":
        raise UserError(f"{key} has no sha256, and files are pinned by it. The files as they are now: sha256: {digest}")
    if source.sha256 not in (None, digest):
        raise UserError(
            f"{key}.sha256 is '{source.sha256}' but the source is now '{digest}'. "
            "Bring the pinned source back, or pin the new digest."
        )
