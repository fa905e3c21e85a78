"""Documents and their Parquet shards: one schema, deterministic bytes, read and written as streams."""

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from types import TracebackType
from typing import Self

import pyarrow as pa
import pyarrow.parquet as pq

from stages.errors import UserError
from stages.files import sha256_file

SHARD_BYTES = 1 << 25
BATCH_BYTES = 1 << 21
BATCH_DOCUMENTS = 1024


@dataclass(frozen=True, slots=True)
class Document:
    """One text and where it comes from.

    Attributes:
        id: 32 hex digits, derived from source, origin and text.
        text: The text.
        domain: The part of the mix it belongs to, such as `code`.
        source: The source's name in params.yaml.
        origin: Where the source has it, such as `numpy==2.4.6/numpy/core/x.py`; never a machine's path.
        license: SPDX expression.
        sha256: Hex SHA-256 of the UTF-8 text.
        url: The address that it was found at, or empty.
        author: Who wrote it, or empty.
    """

    id: str
    text: str
    domain: str
    source: str
    origin: str
    license: str
    sha256: str
    url: str = ""
    author: str = ""


SCHEMA = pa.schema([(field.name, pa.string()) for field in fields(Document)])


def text_digest(text: str) -> str:
    """Return the hex SHA-256 of the UTF-8 text."""
    return hashlib.sha256(text.encode()).hexdigest()


def document_id(source: str, origin: str, sha256: str) -> str:
    """Return 128 bits of SHA-256 over source, origin and the text's digest, in hex."""
    return hashlib.sha256("\0".join((source, origin, sha256)).encode()).hexdigest()[:32]


def size(document: Document) -> int:
    """Return the length of the text in UTF-8 bytes."""
    return len(document.text.encode())


class ShardWriter:
    """Writes documents to `<folder>/<name>-00000.parquet` and on, about `shard_bytes` of text in each at most.

    The bytes are a function of the documents, their order and `shard_bytes`. Memory holds one row group.
    """

    def __init__(self, folder: Path, name: str, shard_bytes: int = SHARD_BYTES) -> None:
        """Write nothing yet: the first document makes the folder and the first shard."""
        self._folder, self._name, self._shard_bytes = folder, name, shard_bytes
        self._paths: list[Path] = []
        self._parquet: pq.ParquetWriter | None = None
        self._written = 0
        self._group: list[Document] = []
        self._group_bytes = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if error is None:
            self._flush()
        self._close()

    def add(self, document: Document) -> None:
        """Append a document; one that is longer than a shard may be has a shard of its own."""
        length = size(document)
        if self._written + length > self._shard_bytes:
            self._flush()
            self._close()
        elif self._group_bytes + length > BATCH_BYTES or len(self._group) == BATCH_DOCUMENTS:
            self._flush()
        self._group.append(document)
        self._group_bytes += length
        self._written += length

    def files(self) -> dict[str, dict[str, int | str]]:
        """Return the shards by name with their `bytes` and `sha256`; only after the block has ended."""
        return {path.name: {"bytes": path.stat().st_size, "sha256": sha256_file(path)} for path in self._paths}

    def _flush(self) -> None:
        if not self._group:
            return
        if self._parquet is None:
            self._folder.mkdir(parents=True, exist_ok=True)
            self._paths.append(self._folder / f"{self._name}-{len(self._paths):05d}.parquet")
            self._parquet = pq.ParquetWriter(
                self._paths[-1], SCHEMA, compression="zstd", use_dictionary=["domain", "source", "license"]
            )
        columns = {name: [getattr(document, name) for document in self._group] for name in SCHEMA.names}
        self._parquet.write_table(pa.table(columns, SCHEMA))
        self._group, self._group_bytes = [], 0

    def _close(self) -> None:
        if self._parquet is not None:
            self._parquet.close()
        self._parquet, self._written = None, 0


def shard_paths(folder: Path, stage: str) -> list[Path]:
    """Return the shards of a folder that `stage` wrote, in name order.

    Raises:
        UserError: There are none.
    """
    paths = sorted(folder.glob("*.parquet"))
    if not paths:
        raise UserError(f"'{folder}' has no documents. They are an output of stage '{stage}': run `dvc repro {stage}`.")
    return paths


def read(paths: Iterable[Path]) -> Iterator[Document]:
    """Yield the documents of shards, in order, one row group in memory at a time."""
    for path in paths:
        with pq.ParquetFile(path) as parquet:
            for group in range(parquet.num_row_groups):
                for row in parquet.read_row_group(group, columns=SCHEMA.names).to_pylist():
                    yield Document(**row)


def batches(documents: Iterable[Document]) -> Iterator[list[Document]]:
    """Group documents, in order, into lists of at most `BATCH_DOCUMENTS` and about `BATCH_BYTES` of text."""
    batch: list[Document] = []
    length = 0
    for document in documents:
        batch.append(document)
        length += len(document.text)
        if length >= BATCH_BYTES or len(batch) == BATCH_DOCUMENTS:
            yield batch
            batch, length = [], 0
    if batch:
        yield batch
