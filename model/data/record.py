"""The record of a run's data: which documents each step was trained on."""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from model.data.index_cache import IndexCache
from model.data.order import Order, Pieces
from model.job import Job

SAMPLES_AT_A_TIME = 1 << 16
"""Samples of a row group, or those of one step if they are more."""

Row = Mapping[str, Any]


class _Step(NamedTuple):
    number: int
    phase: int
    first: int
    samples: int


def write_record(path: Path, job: Job, cache: Path, rows: Iterable[Row]) -> None:
    """Write a row for each piece of a document that a step was trained on, by step, sample and place in the sample.

    A piece is tokens `start` to `end` (exclusive) of document number `document` of the training shard `domain`, its
    end-of-document token included: the tokens that the step predicted. So the pieces of a step add up to its batch
    times the sequence length exactly, and those of an epoch hold every token once, but for the first of the epoch 0,
    which nothing predicts. The first input of a sample is the token before its first piece: of the same document,
    or the end of another if `start` is 0.

    Equal arguments give equal bytes. Memory is that of one row group.

    Args:
        path: The Parquet file.
        job: Data, phases and seed.
        cache: Folder for index arrays.
        rows: Of the log, in the order of the steps: `step` and `first_sample` (in its phase, from 0, what roll-backs
            left out included).
    """
    order = Order(job, IndexCache(cache))
    schema = pa.schema(
        [
            ("step", pa.int32()),
            ("sample", pa.int32()),
            ("domain", pa.dictionary(pa.int16(), pa.string())),
            ("document", pa.int64()),
            ("start", pa.int64()),
            ("end", pa.int64()),
        ]
    )
    names = pa.array(order.domains)
    with pq.ParquetWriter(path, schema, compression="zstd") as writer:
        for block in _blocks(_step(job, row) for row in rows):
            steps, pieces = _pieces(order, block)
            domain = pa.DictionaryArray.from_arrays(pa.array(pieces.domain, pa.int16()), names)
            columns = [steps, pieces.sample, domain, pieces.document, pieces.start, pieces.end]
            table = pa.table([pa.array(column) for column in columns], schema.names).cast(schema)
            writer.write_table(table, row_group_size=len(table))


def _step(job: Job, row: Row) -> _Step:
    planned = job.plan.at(row["step"])
    return _Step(planned.number, planned.phase, row["first_sample"], planned.global_batch_size)


def _blocks(steps: Iterable[_Step]) -> Iterator[list[_Step]]:
    """Yield steps in lists of about so many samples."""
    block: list[_Step] = []
    samples = 0
    for step in steps:
        if block and samples + step.samples > SAMPLES_AT_A_TIME:
            yield block
            block, samples = [], 0
        block.append(step)
        samples += step.samples
    if block:
        yield block


def _pieces(order: Order, steps: list[_Step]) -> tuple[NDArray[np.int64], Pieces]:
    """Return the step of each piece, and the pieces, their samples counted within each step."""
    found, done = [], 0
    for phase, first, count in _runs(steps):
        pieces = order.labels(phase, first, count)
        found.append(pieces._replace(sample=pieces.sample + done))
        done += count
    pieces = Pieces(*map(np.concatenate, zip(*found, strict=True)))
    counts = np.array([step.samples for step in steps])
    ends = np.cumsum(counts)
    place = np.searchsorted(ends, pieces.sample, side="right")
    numbers = np.array([step.number for step in steps])
    return numbers[place], pieces._replace(sample=pieces.sample - (ends - counts)[place])


def _runs(steps: list[_Step]) -> list[tuple[int, int, int]]:
    """Return phase, first sample and number of samples of steps that follow each other without a gap."""
    runs: list[tuple[int, int, int]] = []
    for _, phase, first, count in steps:
        if runs and runs[-1][0] == phase and sum(runs[-1][1:]) == first:
            _, begin, before = runs.pop()
            runs.append((phase, begin, before + count))
        else:
            runs.append((phase, first, count))
    return runs
