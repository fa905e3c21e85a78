"""What is DeepSeek's own: its rules, and the layers for further tokens in its checkpoints."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import save_file
from torch import Tensor
from transformers import AutoModelForCausalLM

from model.convert import unsplit
from model.convert.config import Ids, to_config
from model.convert.from_transformers import Import
from model.families.deepseek_v3 import DeepseekV3
from model.families.family import ModelSettings
from model.families.weights import tensors
from model.network.decoder import Decoder
from stages.errors import UserError
from tests.model.families import table

V3 = {**table.SHAPE, **table.ROWS["deepseek_v3 groups"]}
V2 = {**table.SHAPE, **table.ROWS["deepseek_v2 groups"]}
TOKENS = torch.randint(2, table.VOCAB_SIZE, (2, 12), generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module", autouse=True)
def one_process() -> Iterator[None]:
    with unsplit.process(num_threads=1, seed=1):
        yield


@pytest.mark.parametrize(
    ("base", "changes", "fault"),
    [
        (V3, {"kv_channels": 8}, "kv_channels has no meaning"),
        (V3, {"num_query_groups": 2}, "num_query_groups 2 is not num_attention_heads 4"),
        (V3, {"qk_pos_emb_head_dim": 7}, "qk_pos_emb_head_dim 7 must be even"),
        (V3, {"moe.num_dense_layers": 4}, "leaves no layer of num_layers 4"),
        (V3, {"moe.router_num_groups": 3}, "num_experts 8 is not divisible by router_num_groups 3"),
        (V3, {"moe.router_group_topk": 5}, "router_group_topk 5 is above router_num_groups 4"),
        (V3, {"moe.router_group_topk": 1}, "router_topk 3 is above the experts of router_group_topk 1"),
        (V3, {"moe.router_group_topk": None}, "need each other"),
        (V3, {"moe.router_num_groups": 8}, "leaves groups of one expert"),
        (V3, {"moe.router_topk": 1}, "router_topk is 1"),
        (V3, {"mtp_num_layers": 1, "share_embeddings_and_output_weights": True}, "an output layer of its own"),
        (V2, {"moe.router_bias_update_rate": 0.001}, "router_bias_update_rate"),
        (V2, {"mtp_num_layers": 1}, "mtp_num_layers"),
    ],
)
def test_what_cannot_be_is_refused(base: dict[str, Any], changes: dict[str, Any], fault: str) -> None:
    values = json.loads(json.dumps(base))
    for name, value in changes.items():
        *inner, last = name.split(".")
        (values["moe"] if inner else values)[last] = value
    with pytest.raises(ValidationError, match=fault):
        ModelSettings.model_validate(values)


def further(**changes: Any) -> DeepseekV3:
    """Return a model that predicts one token more."""
    return DeepseekV3.model_validate({**V3, "mtp_num_layers": 1, **changes})


def write(folder: Path, decoder: Decoder, model: DeepseekV3, **more: Tensor) -> dict[str, Tensor]:
    """Write a model as `transformers` has it, with more tensors; return all."""
    own = decoder.state_dict()
    of_all = (tensors(weight, own[weight.megatron]) for weight in model.weights(table.VOCAB_SIZE))
    held = {name: tensor.contiguous() for some in of_all for name, tensor in some} | more
    to_config(model, Ids(table.VOCAB_SIZE, 0, 1)).save_pretrained(folder)
    save_file(held, folder / "model.safetensors", {"format": "pt"})
    return held


def test_copies_of_the_tables_in_a_published_checkpoint_are_left_out(tmp_path: Path) -> None:
    model = further()
    decoder = unsplit.build(model, table.VOCAB_SIZE)
    copies = {f"model.layers.4.{name}": torch.ones(2) for name in ("embed_tokens.weight", "shared_head.head.weight")}
    write(tmp_path, decoder, model, **copies)
    again = unsplit.build(model, table.VOCAB_SIZE)
    with pytest.warns(UserWarning, match=r"left out: model\.layers\.4\.embed_tokens\.weight; model\.layers\.4\.shared"):
        Import(tmp_path, model, table.VOCAB_SIZE, torch.float32).fill(again)
    held, expected = again.state_dict(), decoder.state_dict()
    assert any(name.startswith("mtp.") for name in held)
    for weight in model.weights(table.VOCAB_SIZE):
        rows = len(expected[weight.megatron]) - weight.padding
        assert torch.equal(held[weight.megatron][:rows], expected[weight.megatron][:rows])


def test_a_model_without_further_tokens_starts_from_a_checkpoint_with_them(tmp_path: Path) -> None:
    decoder = unsplit.build(further(), table.VOCAB_SIZE).eval()
    write(tmp_path, decoder, further())
    without = further(mtp_num_layers=None)
    alone = unsplit.build(without, table.VOCAB_SIZE).eval()
    with pytest.warns(UserWarning, match=r"left out: model\.layers\.4\.eh_proj\.weight; .*and \d+ more"):
        Import(tmp_path, without, table.VOCAB_SIZE, torch.float32).fill(alone)
    positions = torch.arange(12).expand(2, -1)
    with torch.no_grad():
        found, expected = (model(TOKENS, positions, None)[..., : table.VOCAB_SIZE] for model in (alone, decoder))
    assert torch.equal(found, expected)


def test_a_checkpoint_without_further_tokens_is_refused_where_they_are_wanted(tmp_path: Path) -> None:
    without = further(mtp_num_layers=None)
    write(tmp_path, unsplit.build(without, table.VOCAB_SIZE), without)
    with pytest.raises(UserError, match=r"model\.layers\.4\.eh_proj\.weight is missing"):
        Import(tmp_path, further(), table.VOCAB_SIZE, torch.float32)


def test_transformers_generates_with_the_layers_for_further_tokens(tmp_path: Path) -> None:
    """It knows them behind 61 layers alone."""
    deep = {"num_layers": 61, "hidden_size": 16, "ffn_hidden_size": 16, "init_method_std": 0.2}
    model = further(**deep, moe={**V3["moe"], "num_dense_layers": 60})
    written = write(tmp_path, unsplit.build(model, table.VOCAB_SIZE), model)
    loaded: Any = AutoModelForCausalLM.from_pretrained(tmp_path, output_loading_info=True)
    network, seen = loaded
    assert not any(seen.values())
    assert any(name.startswith("model.layers.61.") for name in written)
    options = {"max_new_tokens": 8, "do_sample": False}
    plain = network.generate(TOKENS[:1], **options)
    assert torch.equal(network.generate(TOKENS[:1], use_mtp=True, **options), plain)
