"""A held-out document, and chance that is decided by content."""

import hashlib
from dataclasses import dataclass


@dataclass(frozen=True)
class Document:
    """One held-out document, whole."""

    id: str
    domain: str
    sha256: str
    text: str

    @property
    def data(self) -> bytes:
        """The text in UTF-8: what bits per byte divides by and what the compressors read."""
        return self.text.encode()


def digest(seed: int, *parts: str) -> str:
    """Return the hex SHA-256 of seed and parts: the one source of chance in an evaluation."""
    return hashlib.sha256("\0".join([str(seed), *parts]).encode()).hexdigest()
