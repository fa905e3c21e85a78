import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray

from model.data.index_cache import IndexCache
from model.data.order import Order
from model.data.record import SAMPLES_AT_A_TIME, Row, write_record
from model.job import Job
from tests.model import numbered

Documents = dict[str, list[NDArray[np.int64]]]


@pytest.fixture
def documents(tmp_path: Path) -> Documents:
    return numbered.write_domains(tmp_path)


def rows(job: Job, rolled_back: int | None = None) -> list[Row]:
    """Return the rows of a log; after a step, a roll-back may have left out 12 samples of its phase."""
    phase = None if rolled_back is None else job.plan.at(rolled_back).phase
    planned = [job.plan.at(number) for number in range(1, job.plan.steps + 1)]
    return [
        {
            "step": step.number,
            "first_sample": step.first_sample + 12 * (step.phase == phase and step.number > (rolled_back or 0)),
        }
        for step in planned
    ]


def read(path: Path) -> list[dict[str, Any]]:
    table: list[dict[str, Any]] = pq.read_table(path).to_pylist()
    return table


def labels(record: Path, documents: Documents, step: int, seq_length: int) -> NDArray[np.int64]:
    """Return what a record says of the labels of a step, `[b, s]`."""
    pieces = [row for row in read(record) if row["step"] == step]
    samples = [row["sample"] for row in pieces]
    assert samples == sorted(samples)
    found = [documents[row["domain"]][row["document"]][row["start"] : row["end"]] for row in pieces]
    return np.concatenate(found).reshape(-1, seq_length)


def test_a_record_tells_the_labels_of_every_step(tmp_path: Path, documents: Documents) -> None:
    second = numbered.phase(tokens=256, blend={"prose": 1.0}, seq_length=16, global_batch_size=2)
    job = numbered.job(tmp_path, numbered.phase(tokens=256), second)
    log = rows(job, rolled_back=3)
    write_record(tmp_path / "record", job, tmp_path / "index", log)
    order = Order(job, IndexCache(tmp_path / "index"))
    for row in log:
        step = job.plan.at(row["step"])
        length = job.plan.phases[step.phase].seq_length
        pieces = order.labels(step.phase, row["first_sample"], step.global_batch_size)
        told = labels(tmp_path / "record", documents, step.number, length)
        assert np.array_equal(told, order.tokens(pieces).reshape(-1, length))
    assert job.plan.at(9).phase == 1


def test_pieces_of_an_epoch_hold_every_token_once_but_the_first(tmp_path: Path) -> None:
    lengths = [100, 60, 32]
    numbered.write_domains(tmp_path, {"code": lengths})
    job = numbered.job(tmp_path, numbered.phase(tokens=sum(lengths), blend={"code": 1.0}))
    write_record(tmp_path / "record", job, tmp_path / "index", rows(job))
    seen = [np.zeros(length, int) for length in lengths]
    for row in read(tmp_path / "record"):
        seen[row["document"]][row["start"] : row["end"]] += 1
    # The last label is the first token of the next epoch.
    assert np.sort(np.concatenate(seen)).tolist() in ([0, *[1] * 190, 2], [1] * 192)


def test_equal_runs_have_equal_bytes_and_columns(tmp_path: Path, documents: Documents) -> None:
    job = numbered.job(tmp_path)
    for name in ("one", "two"):
        write_record(tmp_path / name, job, tmp_path / name / "index", rows(job))
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()
    types = {field.name: str(field.type) for field in pq.read_schema(tmp_path / "one")}
    assert types == {
        "step": "int32",
        "sample": "int32",
        "domain": "dictionary<values=string, indices=int16, ordered=0>",
        "document": "int64",
        "start": "int64",
        "end": "int64",
    }


def test_row_groups_hold_whole_steps_that_follow_each_other(tmp_path: Path) -> None:
    numbered.write_domains(tmp_path, {"code": [100_000] * 9, "prose": [90_000] * 9})
    phase = numbered.phase(tokens=16 * 3 * SAMPLES_AT_A_TIME, global_batch_size=1000, seq_length=16)
    job = numbered.job(tmp_path, phase)
    write_record(tmp_path / "record", job, tmp_path / "index", rows(job))
    file = pq.ParquetFile(tmp_path / "record").metadata
    steps = [file.row_group(group).column(0).statistics for group in range(file.num_row_groups)]
    assert len(steps) == 4
    assert steps[0].min == 1
    assert steps[-1].max == job.plan.steps
    for before, after in itertools.pairwise(steps):
        assert after.min == before.max + 1
