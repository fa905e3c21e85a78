"""The license gate: a source's texts become documents or refusals, and both are counted and digested."""

import hashlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from stages.corpus.candidates import Candidate
from stages.corpus.documents import Document, document_id, text_digest
from stages.corpus.licenses import flags, refusal
from stages.corpus.sources import Source
from stages.corpus.tally import Tally
from stages.errors import UserError


@dataclass
class Record:
    """What is noted while a source streams by.

    Attributes:
        refuse: Takes one row a refused document, in order; there may be billions, so none is kept here.
        digest: SHA-256 over a line for each text.
        admitted: Documents and bytes by license.
        reasons: Refused documents and bytes by reason.
        encodings: Texts and bytes by the encoding that they were read from.
        flags: Admitted documents and bytes by what their licenses ask, as in stages.corpus.license_flags.
    """

    refuse: Callable[[dict[str, Any]], object]
    digest: Any = field(default_factory=hashlib.sha256)
    admitted: Tally = field(default_factory=Tally)
    reasons: Tally = field(default_factory=Tally)
    encodings: Tally = field(default_factory=Tally)
    flags: Tally = field(default_factory=Tally)


def admit(
    name: str,
    source: Source,
    candidates: Iterable[Candidate],
    allowed: frozenset[str],
    shard_bytes: int,
    record: Record,
) -> Iterator[Document]:
    """Yield the texts that the license gate admits, as documents of source `name`; note all of them in `record`.

    Raises:
        UserError: A text is longer than `shard_bytes`.
    """
    for candidate in candidates:
        sha256 = text_digest(candidate.text)
        length = _fitting_length(candidate, shard_bytes)
        terms, origin = candidate.license, candidate.origin
        record.digest.update(f"{sha256}  {terms.expression}  {origin}\n".encode())
        if reason := candidate.problem or refusal(terms, allowed):
            record.reasons.add(reason, length)
            facts = {"source": name, "origin": origin, "license": terms.expression, "reason": reason}
            record.refuse({**facts, "sha256": sha256, "bytes": length})
            continue
        record.admitted.add(terms.expression, length)
        record.encodings.add(candidate.encoding, length)
        for flag in flags(terms.expression):
            record.flags.add(flag, length)
        identity = document_id(name, origin, sha256)
        about = source.domain, name, origin, terms.expression, sha256, candidate.url, candidate.author
        yield Document(identity, candidate.text, *about)


def _fitting_length(candidate: Candidate, shard_bytes: int) -> int:
    """Return the text's length in UTF-8 bytes, which is at most `shard_bytes`."""
    length = len(candidate.text.encode())
    if length > shard_bytes:
        raise UserError(
            f"'{candidate.origin}' has {length} bytes, more than snapshot.shard_bytes = {shard_bytes}. "
            "Raise it, or add the file to the source's `exclude`."
        )
    return length
