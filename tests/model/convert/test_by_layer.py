"""Models that run with one layer in memory are the models that are whole."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from model.convert import by_layer, described, parity, unsplit
from model.convert.export import load
from model.convert.from_transformers import Import
from model.convert.to_transformers import Export
from model.data.batches import Batch
from tests.model.families import table

TEXT = torch.randint(table.VOCAB_SIZE, (2, 17), generator=torch.Generator().manual_seed(0))
BATCH = Batch(TEXT[:, :-1], TEXT[:, 1:], torch.arange(16).expand(2, -1), None)


@pytest.fixture(autouse=True)
def one_process() -> Iterator[None]:
    with unsplit.process(num_threads=1, seed=1):
        yield


@pytest.mark.parametrize(
    ("row", "dtype"),
    [("llama", torch.bfloat16), ("qwen2", torch.float32), ("deepseek_v3", torch.bfloat16), ("gpt_neox", torch.float32)],
)
def test_both_models_are_the_same_by_layer_as_whole(row: str, dtype: torch.dtype, tmp_path: Path) -> None:
    table.transformers_model(table.settings(row)).save_pretrained(tmp_path / "theirs")
    source = described.of_folder(tmp_path / "theirs")
    Import(tmp_path / "theirs", source.model, source.vocab_size, None).write(tmp_path / "checkpoint", {})
    weights = Export(tmp_path / "checkpoint", source.model, source.vocab_size, dtype, 10**9)
    source.write(weights, tmp_path / "again")
    ours = by_layer.build(weights, source.model, source.vocab_size)
    theirs = load(tmp_path / "again", source, tmp_path / "offload")
    found = parity.compare(ours, theirs, [BATCH, BATCH])
    assert found.max_abs_logit > 2
    assert found.max_abs_logit_difference <= 2e-5
    assert {weight.numel() for weight in ours.decoder.layers.parameters()} == {0}
    assert {weight.device.type for weight in theirs.parameters()} == {"meta"}
    whole = load(tmp_path / "again", source)
    with torch.no_grad():
        assert torch.equal(whole(BATCH.tokens).logits, theirs(BATCH.tokens).logits)
