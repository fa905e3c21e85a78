import hashlib
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from model.data.index_cache import IndexCache
from model.data.order import Order, Pieces
from model.job import Job
from stages.errors import UserError
from tests.model import numbered

ROOT = Path(__file__).parents[3]
MEMORY = IndexCache(Path("unused"))
Documents = dict[str, list[NDArray[np.int64]]]


@pytest.fixture
def documents(tmp_path: Path) -> Documents:
    return numbered.write_domains(tmp_path)


def tokens(job: Job, phase: int, first: int, count: int) -> NDArray[np.int64]:
    """Return the tokens of samples, `[count, s + 1]`."""
    order = Order(job, MEMORY)
    return order.tokens(order.inputs_and_labels(phase, first, count)).reshape(count, -1)


def everything(job: Job) -> NDArray[np.int64]:
    return np.concatenate(
        [tokens(job, index, 0, phase.samples).flatten() for index, phase in enumerate(job.plan.phases)]
    )


def counted(pieces: Pieces) -> dict[tuple[int, int, int], int]:
    """Return how often each token, as domain, document and place in it, is in pieces."""
    counts: dict[tuple[int, int, int], int] = {}
    for _, domain, document, start, end in zip(*(column.tolist() for column in pieces), strict=True):
        for token in range(start, end):
            counts[domain, document, token] = counts.get((domain, document, token), 0) + 1
    return counts


def test_pieces_of_a_sample_are_its_tokens(tmp_path: Path, documents: Documents) -> None:
    order = Order(numbered.job(tmp_path), MEMORY)
    pieces = order.inputs_and_labels(0, 3, 50)
    assert (np.diff(pieces.sample) >= 0).all()
    assert sorted(set(pieces.sample.tolist())) == list(range(50))
    expected = [
        documents[order.domains[domain]][document][start:end]
        for _, domain, document, start, end in zip(*pieces, strict=True)
    ]
    assert np.array_equal(order.tokens(pieces), np.concatenate(expected))


def test_labels_are_the_tokens_after_the_first(tmp_path: Path, documents: Documents) -> None:
    order = Order(numbered.job(tmp_path), MEMORY)
    labels = order.tokens(order.labels(0, 3, 50)).reshape(50, 8)
    assert np.array_equal(labels, tokens(numbered.job(tmp_path), 0, 3, 50)[:, 1:])


def test_samples_keep_to_the_shares_and_repeat_nothing_within_an_epoch(tmp_path: Path, documents: Documents) -> None:
    job = numbered.job(tmp_path, numbered.phase(tokens=160))
    order = Order(job, MEMORY)
    counts = counted(order.labels(0, 0, 20))
    assert set(counts.values()) == {1}
    assert sum(counts.values()) == 160
    by_domain = [sum(domain == index for domain, _, _ in counts) for index in range(2)]
    assert by_domain == [6 * 8, 14 * 8]


def test_a_phase_goes_on_where_the_one_before_ended(tmp_path: Path, documents: Documents) -> None:
    phases = [numbered.phase(tokens=64), numbered.phase(tokens=96, blend={"prose": 1.0})]
    order = Order(numbered.job(tmp_path, *phases), MEMORY)
    both = [order.labels(0, 0, 8), order.labels(1, 0, 12)]
    counts = counted(Pieces(*(np.concatenate(columns) for columns in zip(*both, strict=True))))
    assert sum(counts.values()) == 160
    assert set(counts.values()) == {1}


def test_another_sequence_length_begins_anew(tmp_path: Path, documents: Documents) -> None:
    short, long = numbered.phase(blend={"prose": 1.0}), numbered.phase(blend={"prose": 1.0}, seq_length=16)
    both, alone = numbered.job(tmp_path, short, long), numbered.job(tmp_path, long)
    assert np.array_equal(tokens(both, 1, 0, 40), tokens(alone, 0, 0, 40))


def test_a_longer_run_begins_as_the_shorter(tmp_path: Path, documents: Documents) -> None:
    short = everything(numbered.job(tmp_path))
    long = everything(numbered.job(tmp_path, numbered.phase(tokens=8000)))
    assert len(long) == 10 * len(short)
    assert np.array_equal(long[: len(short)], short)


def test_a_sample_is_the_same_whenever_it_is_asked_for(tmp_path: Path, documents: Documents) -> None:
    job = numbered.job(tmp_path)
    whole = tokens(job, 0, 0, 130)
    for first in (127, 0, 64, 99):
        assert np.array_equal(tokens(job, 0, first, 3), whole[first : first + 3])


def test_the_order_depends_on_data_and_seed_alone(tmp_path: Path, documents: Documents) -> None:
    own = everything(numbered.job(tmp_path))
    changes: dict[str, Any] = {"micro_batch_size": 1, "weight_seed": 9, "layout": {"data_parallel_size": 2}}
    assert np.array_equal(everything(numbered.job(tmp_path, **changes)), own)
    assert not np.array_equal(everything(numbered.job(tmp_path, data_seed=6)), own)
    shutil.copytree(tmp_path / "train", tmp_path / "elsewhere" / "train")
    assert np.array_equal(everything(numbered.job(tmp_path / "elsewhere")), own)


DIGEST = """
import hashlib, sys
from pathlib import Path
from tests.model import numbered
from tests.model.data import test_order
print(hashlib.sha256(test_order.everything(numbered.job(Path(sys.argv[1])))).hexdigest())
"""


def test_another_process_finds_the_same_order(tmp_path: Path, documents: Documents) -> None:
    command = [sys.executable, "-c", DIGEST, str(tmp_path)]
    found = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()
    assert found == hashlib.sha256(everything(numbered.job(tmp_path)).tobytes()).hexdigest()


def test_index_files_give_the_order_that_memory_gives(tmp_path: Path, documents: Documents) -> None:
    job = numbered.job(tmp_path)
    files = IndexCache(tmp_path / "index", smallest_file=0)
    for cache in (MEMORY, files, files):
        order = Order(job, cache)
        found = order.tokens(order.inputs_and_labels(0, 0, 100)).reshape(100, -1)
        assert np.array_equal(found, tokens(job, 0, 0, 100))
    names = {file.name.split("-")[1] for file in (tmp_path / "index").glob("*.npy")}
    assert names == {"counts.npy", "documents.npy", "domain.npy", "ends.npy", "number.npy", "windows.npy"}


def test_a_missing_shard_is_refused(tmp_path: Path, documents: Documents) -> None:
    (tmp_path / "train" / "prose.idx").unlink()
    with pytest.raises(UserError, match=r"prose\.idx' is missing"):
        Order(numbered.job(tmp_path), MEMORY)
