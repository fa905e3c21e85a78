from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from model.families.family import by_name
from model.gguf.architectures import ARCHITECTURES
from model.gguf.facts import context_length
from model.gguf.folder import read
from stages.errors import UserError
from tests.model.families import table
from tests.model.gguf import made

LIMIT = 1e-4
HALF_LIMIT = 1e-3
"""With GELU from a table in half precision, as llama.cpp computes it: what is rounded otherwise is a step away."""


def logits(network: Any, ids: list[int]) -> Any:
    with torch.no_grad():
        return network(torch.tensor([ids])).logits[0].numpy()


class HalfGelu(torch.nn.Module):
    """GELU as llama.cpp computes it."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.gelu(x.half().float(), approximate="tanh").half().float()


def some_ids(length: int = made.CONTEXT) -> list[int]:
    return list(torch.randint(2, made.VOCAB_SIZE, (length,), generator=torch.Generator().manual_seed(1)).tolist())


def check(network: Any, path: Path) -> None:
    """Check that llama.cpp computes the same logits, as far as its context goes."""
    file = made.gguf(made.folder(path / "model", network))
    neox = network.config.model_type == "gpt_neox"
    if neox:
        for layer in network.gpt_neox.layers:
            layer.mlp.act = HalfGelu()
    ids = some_ids(context_length(network.config, ARCHITECTURES[type(network).__name__].arch))
    theirs, ours = made.llama_logits(file, ids), logits(network, ids)
    assert 2 < np.abs(ours).max() < 20
    assert np.abs(theirs - ours).max() < (HALF_LIMIT if neox else LIMIT)


LACKING = {
    "qwen3_moe sparse": "norm_topk_prob = false; dense layers",
    "deepseek_v2": "rms_norm_eps = 0.0001",
    "deepseek_v2 groups": "group_limited_greedy",
    "deepseek_v3 groups": "yarn without mscale",
    "olmo2 wide heads": "head_dim",
    "gpt_neox serial": "attention_bias = false",
}
"""Rows that llama.cpp does not have, and why."""


@pytest.mark.parametrize("row", table.ROWS)
def test_every_row_of_the_families_is_computed_or_refused(
    row: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(table, "VOCAB_SIZE", made.VOCAB_SIZE)
    network = table.transformers_model(table.settings(row))
    if row not in LACKING:
        check(network, tmp_path)
        return
    with pytest.raises(UserError, match=LACKING[row]):
        made.gguf(made.folder(tmp_path / "model", network))


@pytest.mark.parametrize("row", ["deepseek_v2", *made.BESIDE])
def test_llama_cpp_computes_the_logits_of_transformers(row: str, tmp_path: Path) -> None:
    check(made.model(row), tmp_path)


@pytest.mark.parametrize("row", ["llama", "mixtral", "qwen3_moe", "deepseek_v2", "olmo2 tied", "gpt_neox"])
def test_quantised_files_of_every_kind_run(row: str, tmp_path: Path) -> None:
    """Half of the tokens, as a rounding can choose other experts for some."""
    network = made.model(row)
    source, ours = made.folder(tmp_path / "model", network), logits(network, some_ids())
    for kind, limit in (("F16", 0.03), ("Q8_0", 0.8)):
        theirs = made.llama_logits(made.gguf(source, kind), some_ids())
        assert np.median(np.abs(theirs - ours).max(axis=1)) < limit


def test_every_family_has_an_architecture() -> None:
    assert {family.architecture for family in by_name().values()} == ARCHITECTURES.keys()


@pytest.mark.parametrize("row", ["llama", "mixtral", "gpt_neox", "deepseek_v2"])
def test_a_wrong_order_of_rows_is_seen(row: str, tmp_path: Path) -> None:
    """The bounds above would find it: neighbours swapped in one projection."""
    network: Any = made.model(row)
    source = made.folder(tmp_path / "model", network)
    ours = logits(network, some_ids())
    names = ("q_proj.weight", "query_key_value.weight", "kv_b_proj.weight")
    weight = next(value for name, value in network.state_dict().items() if name.endswith(names))
    weight.copy_(weight.unflatten(0, (-1, 2)).flip(1).flatten(0, 1))
    network.save_pretrained(source)
    assert np.abs(made.llama_logits(made.gguf(source), some_ids()) - ours).max() > 20 * HALF_LIMIT


def test_a_window_shortens_the_context_to_where_llama_cpp_is_exact(tmp_path: Path) -> None:
    network = made.model("mistral without window", sliding_window=32)
    source = made.folder(tmp_path / "model", network)
    file = made.gguf(source)
    with made.llama(file) as opened_file:
        assert opened_file.metadata["llama.context_length"] == "32"
    ids = some_ids(32)
    assert np.abs(made.llama_logits(file, ids) - logits(network, ids)).max() < LIMIT
    longer = some_ids(48)
    assert np.abs(made.llama_logits(file, longer) - logits(network, longer)).max() > 10 * LIMIT


REFUSED: dict[str, tuple[str, dict[str, Any]]] = {
    "rope_type = dynamic": ("llama", {"rope_parameters": {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}}),
    "rope_type = llama3": ("qwen3", {"rope_parameters": made.LLAMA_3}),
    "beta_fast": (
        "llama",
        {"rope_parameters": made.YARN | {"beta_fast": 16.0}},
    ),
    "hidden_act = gelu": ("llama", {"hidden_act": "gelu"}),
    "norm_topk_prob = false": ("qwen3_moe", {"norm_topk_prob": False}),
    "dense layers": ("qwen3_moe", {"mlp_only_layers": [1]}),
    "head_dim = 32": ("qwen2", {"head_dim": 32}),
    "group_limited_greedy": ("deepseek_v2", {"topk_method": "group_limited_greedy", "n_group": 4, "topk_group": 2}),
    "rope_interleave": ("deepseek_v3 with groups", {"rope_interleave": False}),
    "yarn without mscale": ("deepseek_v3 with groups", {"rope_parameters": made.YARN}),
    "26 layers": ("deepseek_v3 with groups", {"num_hidden_layers": 26}),
    "partial_rotary_factor": (
        "llama",
        {"rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.5}},
    ),
    "attention_bias = false": ("gpt_neox", {"attention_bias": False}),
    "no place for model.layers.0.self_attn.o_proj.bias": ("qwen3", {"attention_bias": True}),
}


@pytest.mark.parametrize("named", REFUSED)
def test_what_llama_cpp_does_not_have_is_refused_by_name(named: str, tmp_path: Path) -> None:
    row, changes = REFUSED[named]
    source = made.folder(tmp_path / "model", made.model(row, **changes))
    with pytest.raises(UserError, match=named):
        made.gguf(source)
    assert [file.name for file in tmp_path.iterdir()] == ["model"]


def test_layers_for_multi_token_prediction_are_left_out_with_a_remark(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    from model.gguf.remarks import remarks

    network: Any = made.model("deepseek_v3 with groups", num_mtp_layers=1)
    source = made.folder(tmp_path / "model", network)
    file = source / "model.safetensors"
    save_file(load_file(file) | {"model.layers.4.eh_proj.weight": torch.ones(64, 128)}, file, {"format": "pt"})
    assert np.abs(made.llama_logits(made.gguf(source), some_ids()) - logits(network, some_ids())).max() < LIMIT
    assert any("multi-token prediction" in remark for remark in remarks(read(source, ARCHITECTURES), "F32"))
