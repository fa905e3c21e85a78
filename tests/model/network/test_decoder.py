"""The model's losses against its own logits."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional
from transformers.modeling_layers import MtpModel

from model import parallel
from model.families.deepseek_v3 import DeepseekV3
from model.families.llama import Llama
from model.layout import LayoutSettings
from model.network.build import build_model
from model.network.decoder import Decoder
from tests.model.families import table
from tests.model.families.test_parity import LABELS, POSITIONS, TOKENS, megatron_model

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


def test_further_tokens_have_the_losses_of_transformers_layers_for_them() -> None:
    """Their only use in `transformers` is speculative decoding, so that they are called here one by one."""
    model = DeepseekV3.model_validate({**table.SHAPE, **table.ROWS["deepseek_v3 groups"], "mtp_num_layers": 2})
    network: Any = table.transformers_model(model)
    further: Any = MtpModel(network, 2).eval()
    disk = network.state_dict()
    for name, weight in further.layers.state_dict().items():
        weight.normal_(1.0 if "norm" in name else 0.0, 0.3 * (16 / weight.shape[-1]) ** 0.5)
        depth, _, rest = name.partition(".")
        rest = rest.removeprefix("mtp_block.").replace("post_norm", "shared_head.norm")
        disk[f"model.layers.{model.num_layers + int(depth)}.{rest}"] = weight
    decoder = megatron_model(model, table.on_disk(network, disk))
    with torch.no_grad():
        assert len(decoder(TOKENS, POSITIONS, None, labels=LABELS)) == 2
        losses = decoder.train()(TOKENS, POSITIONS, None, labels=LABELS)
        states, tokens, labels = network.model(TOKENS).last_hidden_state, TOKENS, LABELS
        for depth, layer in enumerate(further.layers):
            states, tokens, labels = states[:, :-1], tokens[:, 1:], labels[:, 1:]
            embedded = further.embed_tokens(tokens)
            rotary = further.rotary_emb(embedded, position_ids=POSITIONS[:, 1 + depth :])
            given = {"attention_mask": None, "position_ids": None, "past_key_values": None}
            states = layer(embedded, states, position_embeddings=rotary, **given)
            logits = network.lm_head(states)
            expected = functional.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="none")
            torch.testing.assert_close(losses[2 + depth, :, : -1 - depth], expected.view_as(labels), rtol=0, atol=2e-5)
            assert not losses[2 + depth, :, -1 - depth :].any()
