from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from model import parallel
from model.data import batches as data
from model.data.batches import Batch, TrainingData, ValidationData
from model.data.index_cache import IndexCache
from model.data.order import Order
from model.job import Job
from model.layout import LayoutSettings
from stages.corpus import bpe
from stages.errors import UserError
from stages.files import read_json
from tests.model import corpus, numbered
from tests.model.two_processes import TwoProcesses

CPU = torch.device("cpu")
TWO_REPLICAS = LayoutSettings(data_parallel_size=2)


@pytest.fixture
def one_process() -> Iterator[None]:
    with parallel.processes(LayoutSettings(), "cpu", num_threads=1, seed=0):
        yield


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    numbered.write_domains(tmp_path)
    return tmp_path


def windows(batches: Iterator[Batch]) -> torch.Tensor:
    """Return inputs and last labels of batches, `[n, s + 1]`."""
    return torch.cat([torch.cat([batch.tokens, batch.labels[:, -1:]], dim=1) for batch in batches])


def steps(job: Job, numbers: list[int], workers: int = 0, skipped: int = 0) -> list[torch.Tensor]:
    """Return the windows of steps, taken in that order."""
    loaded = TrainingData(job, Path("unused"), workers)
    taken = [windows(loaded.micro_batches(job.plan.at(number), skipped, CPU)) for number in numbers]
    loaded.close()
    return taken


def expected(job: Job, phase: int, first: int, count: int) -> torch.Tensor:
    order = Order(job, IndexCache(Path("unused")))
    return torch.from_numpy(order.tokens(order.inputs_and_labels(phase, first, count)).reshape(count, -1))


def test_steps_are_the_samples_of_the_order_whatever_the_micro_batch(shards: Path, one_process: None) -> None:
    for size in (1, 2, 4):
        job = numbered.job(shards, micro_batch_size=size)
        for number, step in enumerate(steps(job, [1, 2, 3])):
            assert torch.equal(step, expected(job, 0, 4 * number, 4))


def test_labels_are_the_tokens_one_later(shards: Path, one_process: None) -> None:
    job = numbered.job(shards)
    for batch in TrainingData(job, shards, workers=0).micro_batches(job.plan.at(2), 0, CPU):
        assert batch.tokens.shape == batch.labels.shape == batch.positions.shape == (2, 8)
        assert torch.equal(batch.tokens[:, 1:], batch.labels[:, :-1])
        assert batch.positions.tolist() == [list(range(8))] * 2
        assert batch.attention_mask is None


@pytest.mark.parametrize("workers", [1, 3])
def test_reading_ahead_changes_no_step_also_after_a_jump(shards: Path, one_process: None, workers: int) -> None:
    phases = [numbered.phase(tokens=160), numbered.phase(tokens=160, blend={"prose": 1.0}, seq_length=16)]
    job = numbered.job(shards, *phases)
    numbers = [*range(1, job.plan.steps + 1), 3, 4, 1]
    ahead = steps(job, numbers, workers)
    for number, step in zip(numbers, ahead, strict=True):
        assert torch.equal(step, steps(job, [number])[0])


def test_skipped_samples_shift_the_rest_of_the_phase(shards: Path, one_process: None) -> None:
    job = numbered.job(shards)
    assert torch.equal(steps(job, [5], skipped=8)[0], steps(job, [7])[0])
    last = job.plan.steps
    assert torch.equal(steps(job, [last], skipped=40)[0], expected(job, 0, 4 * last + 36, 4))


def load_replica(root: Path) -> None:
    with parallel.processes(TWO_REPLICAS, "cpu", num_threads=1, seed=0):
        job = numbered.job(root, layout=TWO_REPLICAS.model_dump(), micro_batch_size=1)
        torch.save(steps(job, [3], workers=1)[0], root / f"replica-{parallel.data_parallel_rank()}")


@pytest.mark.e2e
def test_replicas_share_the_samples_of_a_step(shards: Path, two_processes: TwoProcesses) -> None:
    two_processes(load_replica, shards)
    first, second = (torch.load(shards / f"replica-{rank}") for rank in (0, 1))
    whole = expected(numbered.job(shards), 0, 8, 4)
    assert torch.equal(first, whole[[0, 2]])
    assert torch.equal(second, whole[[1, 3]])


def document_of(token: int) -> tuple[int, int]:
    """Return domain and document of a token of the numbered shards."""
    domain, place = divmod(token, 1_000_000)
    ends = np.cumsum(numbered.LENGTHS[sorted(numbered.LENGTHS)[domain]])
    return domain, int(np.searchsorted(ends, place, side="right"))


def check_mask(batch: Batch, document: Callable[[int], object]) -> None:
    """Compare mask and positions with what the definition says, one by one.

    A document may come twice in a window, in two epochs; its tokens follow each other in one of them alone.
    """
    assert batch.attention_mask is not None
    size, length = batch.tokens.shape
    assert batch.attention_mask.shape == (size, 1, length, length)
    for row in range(size):
        pieces = [(document(token), token - place) for place, token in enumerate(batch.tokens[row].tolist())]
        for query in range(length):
            attended = [key <= query and pieces[key] == pieces[query] for key in range(length)]
            assert batch.attention_mask[row, 0, query].tolist() == attended
            assert batch.positions[row, query] == sum(attended) - 1


@pytest.mark.parametrize("seq_length", [8, 64])
def test_a_document_mask_keeps_attention_and_positions_within_documents(
    shards: Path, one_process: None, seq_length: int
) -> None:
    job = numbered.job(shards, numbered.phase(seq_length=seq_length), document_mask=True)
    loaded = TrainingData(job, shards, workers=0)
    for number in (1, 2):
        for batch in loaded.micro_batches(job.plan.at(number), 0, CPU):
            check_mask(batch, document_of)


def test_one_document_after_itself_is_two_under_a_mask(tmp_path: Path, one_process: None) -> None:
    numbered.write_domains(tmp_path, {"code": [3]})
    job = numbered.job(tmp_path, numbered.phase(blend={"code": 1.0}), document_mask=True, micro_batch_size=1)
    batch = next(TrainingData(job, tmp_path, workers=0).micro_batches(job.plan.at(1), 0, CPU))
    starts = batch.tokens[0] == 0
    assert (batch.positions[0][starts] == 0).all()
    assert batch.attention_mask is not None
    assert batch.attention_mask.sum(-1).max() == 3


def test_validation_windows_follow_each_other_without_overlap_or_gap(tmp_path: Path) -> None:
    numbered.write(tmp_path / "code", [30, 5, 60])
    batches = list(ValidationData(tmp_path / "code", seq_length=16, sequences=50).batches(2, CPU))
    assert [len(batch.tokens) for batch in batches] == [2, 2, 1]
    assert torch.cat([batch.tokens for batch in batches]).flatten().tolist() == list(range(80))
    assert torch.cat([batch.labels for batch in batches]).flatten().tolist() == list(range(1, 81))
    fewer = next(ValidationData(tmp_path / "code", seq_length=16, sequences=2).batches(2, CPU))
    assert torch.equal(fewer.tokens, batches[0].tokens)


def test_validation_windows_are_masked_as_training_is(tmp_path: Path) -> None:
    lengths = [30, 5, 60]
    numbered.write(tmp_path / "code", lengths)
    for batch in ValidationData(tmp_path / "code", 16, 50, document_mask=True).batches(2, CPU):
        check_mask(batch, lambda token: int(np.searchsorted(np.cumsum(lengths), token, side="right")))


def test_a_validation_shard_shorter_than_a_sequence_is_refused(tmp_path: Path) -> None:
    numbered.write(tmp_path / "code", [30, 5])
    with pytest.raises(UserError, match=r"has 35 tokens, fewer than model\.seq_length = 35"):
        ValidationData(tmp_path / "code", seq_length=35, sequences=1)


def test_token_bytes_add_up_to_the_text(tmp_path: Path) -> None:
    corpus.write(tmp_path)
    tokenizer = tmp_path / "out" / "tokenizer" / "tokenizer" / "tokenizer.json"
    text = Path(corpus.__file__).read_text(encoding="utf-8") + "é漢🙂\r\n\t"
    sizes = data.token_bytes(read_json(tokenizer), corpus.VOCAB_SIZE)
    assert sizes[bpe.load(tokenizer).encode(text).ids].sum().item() == len(text.encode())
    assert sizes[[0, 1]].tolist() == [0, 0]
