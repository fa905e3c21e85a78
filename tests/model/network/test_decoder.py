"""The model's losses against its own logits."""

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from model import parallel
from model.families.llama import Llama
from model.layout import LayoutSettings
from model.network.build import build_model
from model.network.decoder import Decoder

VOCAB_SIZE = 100
"""Padded to 128."""
MODEL = Llama(
    num_layers=1, hidden_size=32, ffn_hidden_size=48, num_attention_heads=4, num_query_groups=2, seq_length=16
)


@pytest.fixture(scope="module", autouse=True)
def one_process() -> Iterator[None]:
    with parallel.processes(LayoutSettings(), "cpu", num_threads=1, seed=0):
        yield


@pytest.fixture(params=[False, True], ids=["own table", "tied table"])
def decoder(request: pytest.FixtureRequest) -> Decoder:
    model = MODEL.model_copy(update={"share_embeddings_and_output_weights": request.param, "init_method_std": 0.2})
    return build_model(model, LayoutSettings(), VOCAB_SIZE)


def batch() -> tuple[Tensor, Tensor, Tensor]:
    """Return tokens, positions and labels `[b, s]`."""
    tokens = torch.randint(0, VOCAB_SIZE, (3, MODEL.seq_length + 1), generator=torch.Generator().manual_seed(0))
    return tokens[:, :-1], torch.arange(MODEL.seq_length).expand(3, -1), tokens[:, 1:]


def test_losses_and_all_gradients_are_those_of_the_softmax_of_the_real_logits(decoder: Decoder) -> None:
    decoder.z_loss = 0.1
    tokens, positions, labels = batch()
    losses = decoder(tokens, positions, None, labels=labels)
    logits = decoder(tokens, positions, None)[..., :VOCAB_SIZE]
    entropy = functional.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="none").view_as(labels)
    expected = torch.stack((entropy, logits.logsumexp(-1).square()))
    torch.testing.assert_close(losses, expected, rtol=1e-5, atol=1e-5)
    weights = list(decoder.parameters())
    for mine, reference in zip(
        *(torch.autograd.grad(out[0].mean() + 0.1 * out[1].mean(), weights) for out in (losses, expected)), strict=True
    ):
        torch.testing.assert_close(mine, reference, rtol=1e-4, atol=1e-6)


def test_logits_keep_the_padding_and_their_order(decoder: Decoder) -> None:
    tokens, positions, _ = batch()
    logits = decoder(tokens, positions, None)
    assert logits.shape == (3, MODEL.seq_length, 128)
    alone = decoder(tokens[1:2], positions[:1], None)
    torch.testing.assert_close(logits[1:2], alone)
