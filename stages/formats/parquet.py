"""Parquet, a few rows in memory at a time."""

from collections.abc import Iterator
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from stages.errors import UserError
from stages.formats.row import Options, Row, damaged
from stages.formats.tables import check_columns, row_of

_BATCH_ROWS = 64


def read(stream: BinaryIO, name: str, options: Options) -> Iterator[Row]:
    """Yield the rows in order, with the columns that are asked for.

    Raises:
        UserError: The file is damaged, swells too much, or lacks a column.
    """
    number = 0
    for batch in _batches(stream, name, options):
        try:
            rows = batch.to_pylist()
        except UnicodeDecodeError as error:
            raise UserError(f"'{name}' is not valid utf-8 near row {number + 1}: {error}. Correct it.") from None
        for cells in rows:
            number += 1
            yield row_of(cells, name, number, options)


def _batches(stream: BinaryIO, name: str, options: Options) -> Iterator[Any]:
    try:
        with pq.ParquetFile(stream) as parquet:
            _check_size(parquet.metadata, name, options)
            check_columns(parquet.schema_arrow.names, name, options)
            wanted = [options.text_column, *options.columns]
            yield from parquet.iter_batches(batch_size=_BATCH_ROWS, columns=wanted)
    except (pa.ArrowException, OSError) as error:
        raise damaged(name, error) from None


def _check_size(metadata: Any, name: str, options: Options) -> None:
    groups = [metadata.row_group(index) for index in range(metadata.num_row_groups)]
    size = sum(group.total_byte_size for group in groups)
    columns = (group.column(index) for group in groups for index in range(group.num_columns))
    ratio = size / max(sum(column.total_compressed_size for column in columns), 1)
    limits = options.settings
    if size > limits.max_file_bytes or ratio > limits.max_ratio:
        raise UserError(
            f"'{name}' has {size} bytes when decompressed, {ratio:.0f} for a compressed one; the limits are "
            f"{limits.max_file_bytes} and {limits.max_ratio:g}. Raise them in `formats`, or add it to `exclude`."
        )
