"""Token shards: a Megatron `.bin/.idx` pair with a sidecar that says what each document in it is."""

import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from tokenizers import Tokenizer

from stages.corpus import bpe
from stages.corpus.documents import Document, batches, read, size
from stages.errors import UserError
from stages.files import sha256_file

with warnings.catch_warnings(action="ignore", category=UserWarning):  # no Transformer Engine: it makes no shards
    from megatron.core.datasets.indexed_dataset import DType, IndexedDatasetBuilder, get_bin_path, get_idx_path

SIDECAR = pa.schema(
    [
        ("index", pa.int64()),
        ("id", pa.string()),
        ("source", pa.string()),
        ("license", pa.string()),
        ("origin", pa.string()),
        ("bytes", pa.int64()),
        ("tokens", pa.int64()),
        ("offset", pa.int64()),
    ]
)


@dataclass
class Counts:
    """What a shard holds; `tokens` includes an end of document for each."""

    documents: int = 0
    tokens: int = 0
    bytes: int = 0


class TokenShard:
    """Writes `<prefix>.bin`, `<prefix>.idx` and the sidecar `<prefix>.parquet`.

    Each document is followed by the end-of-document id. The sidecar has a row a document: its index in the
    shard, id, source, license, origin, bytes of text, tokens with the end of document, and the offset of its
    first token. Memory: a batch, and Megatron's index of 16 bytes a document.
    """

    def __init__(self, prefix: Path, tokenizer: Tokenizer) -> None:
        """Open the three files."""
        prefix.parent.mkdir(parents=True, exist_ok=True)
        self._prefix = str(prefix)
        self._tokenizer = tokenizer
        self._vocab_size = tokenizer.get_vocab_size()
        self._end_of_document = tokenizer.token_to_id(bpe.END_OF_DOCUMENT)
        self._dtype = DType.optimal_dtype(self._vocab_size)
        self._builder = IndexedDatasetBuilder(get_bin_path(self._prefix), dtype=self._dtype)
        self._sidecar = pq.ParquetWriter(prefix.with_suffix(".parquet"), SIDECAR, compression="zstd")
        self.counts = Counts()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._sidecar.close()
        if error is None:
            self._builder.finalize(get_idx_path(self._prefix))
        else:
            self._builder.data_file.close()

    def add(self, batch: list[Document]) -> None:
        """Append a batch of documents.

        Raises:
            UserError: The tokenizer gives an id that is not below the size of its vocabulary.
        """
        rows = []
        for document, ids in zip(batch, bpe.encode(self._tokenizer, batch), strict=True):
            tokens = np.array([*ids, self._end_of_document], dtype=np.int64)
            self._check_range(document, int(tokens.max()))
            self._builder.add_document(tokens.astype(self._dtype), [len(tokens)])
            rows.append(self._count(document, len(tokens)))
        self._sidecar.write_table(pa.Table.from_pylist(rows, SIDECAR))

    def _count(self, document: Document, tokens: int) -> dict[str, Any]:
        counts, length = self.counts, size(document)
        row = {
            "index": counts.documents,
            "id": document.id,
            "source": document.source,
            "license": document.license,
            "origin": document.origin,
            "bytes": length,
            "tokens": tokens,
            "offset": counts.tokens,
        }
        counts.documents += 1
        counts.tokens += tokens
        counts.bytes += length
        return row

    def _check_range(self, document: Document, largest: int) -> None:
        if largest >= self._vocab_size:
            raise UserError(
                f"The tokenizer gives id {largest} in '{document.origin}' but has {self._vocab_size} tokens: its ids "
                "have gaps. Number them 0 to n-1 in the tokenizer.json, or train a tokenizer."
            )


def write_shard(tokenizer: Tokenizer, paths: Iterable[Path], prefix: Path) -> dict[str, Any]:
    """Tokenise the documents of `paths` to `prefix` and return the shard's entry in index.json."""
    with TokenShard(prefix, tokenizer) as shard:
        for batch in batches(read(paths)):
            shard.add(batch)
    files = [prefix.with_suffix(suffix) for suffix in (".bin", ".idx", ".parquet")]
    return {**vars(shard.counts), "files": {path.name: sha256_file(path) for path in files}}
