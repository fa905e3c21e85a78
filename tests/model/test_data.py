from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from model import data, parallel
from model.job import Job
from model.settings import LayoutSettings
from stages.corpus import bpe
from stages.errors import UserError
from stages.files import read_json
from stages.pretrain import read_job_from_params
from tests.model import corpus

CPU = torch.device("cpu")
TOKENIZER = Path("out/tokenizer/tokenizer/tokenizer.json")


@pytest.fixture
def job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Job:
    monkeypatch.chdir(tmp_path)
    corpus.write(tmp_path)
    corpus.write_params(tmp_path, corpus.params())
    return read_job_from_params()


@pytest.fixture
def one_process() -> Iterator[None]:
    with parallel.processes(LayoutSettings(), "cpu", num_threads=1, seed=0):
        yield


def test_token_bytes_add_up_to_the_text(job: Job) -> None:
    text = Path(corpus.__file__).read_text(encoding="utf-8") + "é漢🙂\r\n\t"
    sizes = data.token_bytes(read_json(TOKENIZER), job.shards.vocab_size)
    ids = bpe.load(TOKENIZER).encode(text).ids
    assert sizes[ids].sum().item() == len(text.encode())
    assert sizes[[job.shards.end_of_document, job.shards.pad]].tolist() == [0, 0]


def test_validation_windows_follow_each_other_without_overlap_or_gap(job: Job) -> None:
    windows = data.ValidationData(Path("out/shards/tokens/validation/code"), seq_length=16, sequences=5)
    assert windows.tokens.shape == windows.labels.shape == (5, 16)
    assert torch.equal(windows.tokens.flatten()[1:], windows.labels.flatten()[:-1])
    longer = data.ValidationData(Path("out/shards/tokens/validation/code"), seq_length=16, sequences=50)
    assert torch.equal(longer.tokens[:5], windows.tokens)
    sizes = [len(tokens) for tokens, _, _ in windows.batches(2, CPU)]
    assert sizes == [2, 2, 1]


def test_a_validation_shard_shorter_than_a_sequence_is_refused(job: Job) -> None:
    with pytest.raises(UserError, match=r"fewer than model\.seq_length = 1000000"):
        data.ValidationData(Path("out/shards/tokens/validation/code"), seq_length=1_000_000, sequences=1)


def sequences(job: Job, step: int, cache: Path, **changes: Any) -> torch.Tensor:
    settings = job.pretrain.model_copy(update=changes)
    batches = data.TrainingData(job.shards, job.model, settings, cache).micro_batches(step, CPU)
    return torch.cat([tokens for tokens, _, _ in batches])


def test_a_step_is_the_same_sequences_whatever_the_micro_batch(job: Job, one_process: None, tmp_path: Path) -> None:
    whole = sequences(job, 3, tmp_path / "a", micro_batch_size=4)
    assert whole.shape == (4, 64)
    assert torch.equal(sequences(job, 3, tmp_path / "b", micro_batch_size=1), whole)
    assert not torch.equal(sequences(job, 4, tmp_path / "c", micro_batch_size=4), whole)
    assert not torch.equal(sequences(job, 3, tmp_path / "d", micro_batch_size=4, data_seed=6), whole)


def test_index_files_of_a_killed_run_are_built_again(job: Job, one_process: None, tmp_path: Path) -> None:
    whole = sequences(job, 1, tmp_path / "whole")
    sequences(job, 1, tmp_path / "cut")
    for file in (tmp_path / "cut").glob("*.npy"):
        file.write_bytes(file.read_bytes()[:100])
    (tmp_path / "cut.whole").unlink()
    assert torch.equal(sequences(job, 1, tmp_path / "cut"), whole)
