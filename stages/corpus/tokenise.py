"""Documents to token shards, a file of documents at a time, by any number of workers: the bytes are always the same.

A shard is a Megatron `.bin/.idx` pair, in which each document is followed by the end-of-document id, and a sidecar
`.parquet` with a row a document (`SIDECAR`). Megatron's own builder makes a tensor of each document and holds the
whole index as Python integers; here memory holds the index of one file of documents. A test compares the bytes.
"""

import hashlib
import json
import shutil
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from stages.corpus import bpe, encoder
from stages.corpus.documents import BATCH_BYTES, BATCH_DOCUMENTS, Document, batches, read, size
from stages.curation.engine import Workers, run
from stages.errors import UserError
from stages.files import sha256_file

SIDECAR = pa.schema(
    [
        ("index", pa.int64()),
        ("id", pa.string()),
        ("source", pa.string()),
        ("license", pa.string()),
        ("origin", pa.string()),
        ("sha256", pa.string()),
        ("bytes", pa.int64()),
        ("tokens", pa.int64()),
        ("offset", pa.int64()),
    ]
)
"""Columns: the document's index in the shard, what it is, digest and bytes of its text as curation left it, tokens with
the end of document, and the offset of the first of them."""

TOKENS, ROWS = "tokens.bin", "rows.parquet"
_ROW = pa.schema([field for field in SIDECAR if field.name not in ("index", "offset")] + [("characters", pa.int64())])
_DTYPE_CODES = {"uint16": 8, "int32": 4}  # of megatron.core.datasets.indexed_dataset.DType


@dataclass(frozen=True)
class Tokenise:
    """Writes the tokens of a file of documents, and a row for each document.

    Attributes:
        documents: The file.
        tokenizer: The tokenizer.json.
        sha256: Its digest.
    """

    documents: Path
    tokenizer: Path
    sha256: str

    def __call__(self, folder: Path) -> None:
        """Do it; memory holds a batch of documents."""
        encode = encoder.load(self.tokenizer, self.sha256)
        with (folder / TOKENS).open("wb") as tokens, pq.ParquetWriter(folder / ROWS, _ROW) as rows:
            for batch in batches(read([self.documents])):
                ids = [encode(document.text) for document in batch]
                self._check_range(batch, ids, encode.vocab_size)
                tokens.write(_with_ends(ids, encode.end_of_document).astype(dtype_of(encode.vocab_size)).tobytes())
                rows.write_table(pa.Table.from_pylist(list(map(_row, batch, ids)), _ROW))

    def _check_range(self, batch: list[Document], ids: list[NDArray[np.uint32]], vocab_size: int) -> None:
        for document, found in zip(batch, ids, strict=True):
            if found.size and (largest := int(found.max())) >= vocab_size:
                raise UserError(
                    f"The tokenizer gives id {largest} in '{document.origin}' but has {vocab_size} tokens: its ids "
                    "have gaps. Number them 0 to n-1 in the tokenizer.json, or train a tokenizer."
                )


class Shard(NamedTuple):
    """The results of `Tokenise` for the files of a shard, in order, and the shard's path without suffixes."""

    parts: Sequence[Path]
    prefix: Path


def write_shards(
    documents: Mapping[Path, Sequence[Path]], tokenizer: Path, workers: Workers, scratch: Path
) -> dict[Path, dict[str, Any]]:
    """Tokenise documents to shards.

    Args:
        documents: The files of documents of each shard, in order, by the shard's path without suffixes.
        tokenizer: The tokenizer.json.
        workers: Who does the work.
        scratch: Where the results of single files are kept, so that a run that was killed goes on from them.

    Returns:
        The shards' entries in index.json.

    Raises:
        UserError: The tokenizer gives an id that is not below the size of its vocabulary.
    """
    sha256 = sha256_file(tokenizer)
    work = [Tokenise(path, tokenizer, sha256) for paths in documents.values() for path in paths]
    parts = iter(run([(_key(piece), piece) for piece in work], scratch, workers))
    vocab_size = bpe.load(tokenizer).get_vocab_size()
    shards = [Shard([next(parts) for _ in paths], prefix) for prefix, paths in documents.items()]
    return {shard.prefix: join(shard, dtype_of(vocab_size)) for shard in shards}


def join(shard: Shard, dtype: np.dtype[Any]) -> dict[str, Any]:
    """Write a shard from its parts, and return its entry in index.json."""
    shard.prefix.parent.mkdir(parents=True, exist_ok=True)
    files = [shard.prefix.with_suffix(suffix) for suffix in (".bin", ".idx", ".parquet")]
    with files[0].open("wb") as tokens:
        for part in shard.parts:
            with (part / TOKENS).open("rb") as some:
                shutil.copyfileobj(some, tokens, 1 << 22)
    _write_index(shard.parts, files[1], dtype)
    counts = _write_sidecar(shard.parts, files[2])
    return {**counts, "files": {path.name: sha256_file(path) for path in files}}


def dtype_of(vocab_size: int) -> np.dtype[Any]:
    """Return the type of ids in a shard, by Megatron's rule (`DType.optimal_dtype`)."""
    return np.dtype(np.uint16 if vocab_size < 65500 else np.int32)


def _key(piece: Tokenise) -> str:
    """Return a digest of what the tokens of a file depend on."""
    code = [sha256_file(Path(module)) for module in (__file__, encoder.__file__, bpe.__file__)]
    text = json.dumps([sha256_file(piece.documents), piece.sha256, code])
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def _with_ends(ids: list[NDArray[np.uint32]], end_of_document: int) -> NDArray[np.uint32]:
    end = np.array([end_of_document], np.uint32)
    return np.concatenate([some for found in ids for some in (found, end)])


def _row(document: Document, ids: NDArray[np.uint32]) -> dict[str, Any]:
    return {
        "id": document.id,
        "source": document.source,
        "license": document.license,
        "origin": document.origin,
        "sha256": document.sha256,
        "bytes": size(document),
        "tokens": len(ids) + 1,
        "characters": len(document.text),
    }


def _write_index(parts: Sequence[Path], path: Path, dtype: np.dtype[Any]) -> None:
    """Write Megatron's index: lengths and places of the sequences, and which of them begin and end documents."""
    documents = sum(pq.read_metadata(part / ROWS).num_rows for part in parts)
    with path.open("wb") as file:
        file.write(b"MMIDIDX\x00\x00" + struct.pack("<QBQQ", 1, _DTYPE_CODES[dtype.name], documents, documents + 1))
        for lengths in _lengths(parts):
            file.write(lengths.astype(np.int32).tobytes())
        start = 0
        for lengths in _lengths(parts):
            ends = start + np.cumsum(lengths * dtype.itemsize)
            file.write((ends - lengths * dtype.itemsize).tobytes())
            start = int(ends[-1])
        for first in range(0, documents + 1, BATCH_BYTES):
            file.write(np.arange(first, min(first + BATCH_BYTES, documents + 1), dtype=np.int64).tobytes())


def _lengths(parts: Sequence[Path]) -> Iterator[NDArray[np.int64]]:
    for part in parts:
        yield pq.read_table(part / ROWS, columns=["tokens"])["tokens"].to_numpy()


def _write_sidecar(parts: Sequence[Path], path: Path) -> dict[str, int]:
    """Write the sidecar and return what the shard holds."""
    counts = {"documents": 0, "tokens": 0, "bytes": 0}
    with pq.ParquetWriter(path, SIDECAR, compression="zstd") as sidecar:
        for rows in _groups(parts):
            lengths = rows["tokens"].to_numpy()
            places = {
                "index": pa.array(np.arange(counts["documents"], counts["documents"] + len(lengths))),
                "offset": pa.array(counts["tokens"] + np.cumsum(lengths) - lengths),
            }
            columns = [places[name] if name in places else rows[name] for name in SIDECAR.names]
            sidecar.write_table(pa.table(columns, SIDECAR))
            counts["documents"] += len(lengths)
            counts["tokens"] += int(lengths.sum())
            counts["bytes"] += int(rows["bytes"].to_numpy().sum())
    return counts


def _groups(parts: Sequence[Path]) -> Iterator[pa.Table]:
    """Yield the rows of all parts, as many at a time as `batches` would, so that the parts' borders do not show."""
    left = _ROW.empty_table()
    for part in parts:
        rows = pa.concat_tables([left, pq.read_table(part / ROWS)])
        start = length = 0
        for row, characters in enumerate(rows["characters"].to_pylist()):
            length += characters
            if length >= BATCH_BYTES or row + 1 - start == BATCH_DOCUMENTS:
                yield rows.slice(start, row + 1 - start)
                start, length = row + 1, 0
        left = rows.slice(start)
    if left.num_rows:
        yield left
