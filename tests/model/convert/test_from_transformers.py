"""The weights of Megatron-Core and of `transformers`, there and back, for every architecture."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from model.convert import unsplit
from model.convert.from_transformers import read_transformers
from model.families.family import ModelSettings
from model.families.weights import fill, tensors
from tests.model import jobs

TIED = jobs.LLAMA.model_copy(update={"share_embeddings_and_output_weights": True})
MODELS = pytest.mark.parametrize("model", [jobs.LLAMA, TIED, jobs.MIXTRAL], ids=["llama", "tied", "mixtral"])
TOKENS = torch.randint(0, jobs.VOCAB_SIZE, (2, 16), generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module", autouse=True)
def one_process() -> Iterator[None]:
    with unsplit.process(num_threads=1, seed=1):
        yield


@MODELS
def test_an_imported_model_has_the_logits_of_the_checkpoint(model: ModelSettings, tmp_path: Path) -> None:
    theirs: Any = jobs.write_hugging_face(tmp_path, model)
    ours = unsplit.build(model, jobs.VOCAB_SIZE).eval()
    read_transformers(tmp_path, jobs.start_from(tmp_path, model), ours)
    with torch.no_grad():
        expected = theirs(TOKENS).logits
        found = ours(TOKENS, torch.arange(16).expand(2, -1), None)[..., : jobs.VOCAB_SIZE]
    assert expected.abs().max() > 2
    assert (found - expected).abs().max() <= 2e-5


@MODELS
def test_weights_that_are_exported_and_imported_are_the_same_bits(model: ModelSettings) -> None:
    own = dict(unsplit.build(model, jobs.VOCAB_SIZE).named_parameters())
    weights = list(model.weights(jobs.VOCAB_SIZE))
    assert {weight.megatron for weight in weights} == own.keys()
    for weight in weights:
        before = own[weight.megatron].detach()
        again = torch.full_like(before, torch.nan)
        fill(weight, again, dict(tensors(weight, before)).__getitem__)
        real = len(before) - weight.padding
        assert torch.equal(again[:real], before[:real])
        assert not again.isnan().any()


def test_padding_of_the_vocabulary_is_cut_off_and_repeats_the_last_row() -> None:
    table = unsplit.build(jobs.LLAMA, jobs.VOCAB_SIZE).state_dict()["output_layer.weight"]
    assert len(table) == 128
    (weight,) = (weight for weight in jobs.LLAMA.weights(jobs.VOCAB_SIZE) if weight.megatron == "output_layer.weight")
    exported = dict(tensors(weight, table))
    assert exported["lm_head.weight"].shape == (jobs.VOCAB_SIZE, 32)
    table = torch.full_like(table, torch.nan)
    fill(weight, table, exported.__getitem__)
    assert torch.equal(table[jobs.VOCAB_SIZE :], table[jobs.VOCAB_SIZE - 1].expand(27, -1))
