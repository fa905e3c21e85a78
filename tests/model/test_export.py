import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from model import export, llama, parallel
from model.build import build_model
from model.data import Batch
from model.settings import LayoutSettings, ModelSettings
from stages import export as stage
from stages.errors import UserError

ONE = LayoutSettings()
MODEL = ModelSettings(
    num_layers=3,
    hidden_size=32,
    ffn_hidden_size=48,
    num_attention_heads=4,
    num_query_groups=2,
    seq_length=16,
    init_method_std=0.2,  # logits of about 5, so that a difference shows
)
VOCAB_SIZE = 101  # padded to 128


@pytest.fixture
def one_process() -> Iterator[None]:
    with parallel.processes(ONE, "cpu", num_threads=1, seed=1):
        yield


def batch() -> Batch:
    tokens = torch.randint(0, VOCAB_SIZE, (2, 17), generator=torch.Generator().manual_seed(0))
    return tokens[:, :-1], tokens[:, 1:], torch.arange(16).expand(2, -1)


def exported(megatron: Any, model: ModelSettings, change: Callable[[dict[str, Any]], None] | None = None) -> Any:
    weights = {name: weight.clone() for name, weight in llama.to_llama(megatron.state_dict(), model, VOCAB_SIZE)}
    if change:
        change(weights)
    config = llama.llama_config(model, VOCAB_SIZE, 0, 1)
    hugging_face = AutoModelForCausalLM.from_config(config).eval()
    if model.share_embeddings_and_output_weights:
        weights["lm_head.weight"] = weights["model.embed_tokens.weight"]
    hugging_face.load_state_dict(weights, strict=True)
    return hugging_face


@pytest.mark.parametrize("tied", [False, True])
def test_exported_logits_and_loss_are_those_of_the_trained_model(one_process: None, tied: bool) -> None:
    model = MODEL.model_copy(update={"share_embeddings_and_output_weights": tied})
    megatron = build_model(model, ONE, VOCAB_SIZE).eval()
    parity = export.compare(megatron, exported(megatron, model), [batch()])
    assert parity.tokens == 32
    assert parity.max_abs_logit > 0.5
    assert parity.max_abs_logit_difference <= 2e-5
    assert parity.loss_difference <= 1e-6


def swap_heads(weights: dict[str, Any]) -> None:
    query = weights["model.layers.1.self_attn.q_proj.weight"]
    query[:16] = query[:16].flip(0)


def swap_gate_and_up(weights: dict[str, Any], layer: int = 2) -> None:
    gate, up = f"model.layers.{layer}.mlp.gate_proj.weight", f"model.layers.{layer}.mlp.up_proj.weight"
    weights[gate], weights[up] = weights[up], weights[gate]


def scale_norm(weights: dict[str, Any]) -> None:
    weights["model.norm.weight"] *= 1.01


@pytest.mark.parametrize(
    ("change", "where"),
    [(swap_heads, "layer 1"), (swap_gate_and_up, "layer 2"), (scale_norm, "the final norm or the output projection")],
)
def test_a_wrong_mapping_is_caught_and_located(
    one_process: None, change: Callable[[dict[str, Any]], None], where: str
) -> None:
    megatron = build_model(MODEL, ONE, VOCAB_SIZE).eval()
    wrong = exported(megatron, MODEL, change)
    assert export.compare(megatron, wrong, [batch()]).max_abs_logit_difference > 1e-3
    assert export.first_difference(megatron, wrong, batch(), 1e-4).startswith(where)


def test_vocabulary_padding_is_cut_off(one_process: None) -> None:
    megatron = build_model(MODEL, ONE, VOCAB_SIZE)
    assert len(megatron.state_dict()["output_layer.weight"]) == 128
    shapes = {name: tuple(weight.shape) for name, weight in llama.to_llama(megatron.state_dict(), MODEL, VOCAB_SIZE)}
    assert shapes["model.embed_tokens.weight"] == shapes["lm_head.weight"] == (VOCAB_SIZE, 32)


@pytest.mark.e2e
def test_the_export_of_a_two_rank_run_loads_and_generates_without_remote_code(
    workspace: Callable[..., Path], run_stage: Callable[[str, Path], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    root = workspace("run", steps=6, tensor_parallel=2)
    run_stage("pretrain", root)
    run_stage("export", root)
    folder = root / "out" / "export" / "model"
    assert {file.name for file in folder.iterdir()} >= {"config.json", "generation_config.json", "model.safetensors"}
    parity = json.loads((root / "out" / "export" / "parity.json").read_text())
    assert parity["max_abs_logit_difference"] <= parity["limits"]["max_abs_logit_difference"]
    tokenizer: Any = AutoTokenizer.from_pretrained(folder)
    model: Any = AutoModelForCausalLM.from_pretrained(folder)
    inputs = tokenizer("def main(", return_tensors="pt")
    assert model.generate(**inputs, max_new_tokens=5, do_sample=False).shape[1] > inputs["input_ids"].shape[1]

    def wrong_mapping(*args: Any) -> Iterator[tuple[str, Any]]:
        weights = dict(llama.to_llama(*args))
        swap_gate_and_up(weights, layer=1)
        return iter(weights.items())

    monkeypatch.chdir(root)
    monkeypatch.setattr(export, "to_llama", wrong_mapping)
    with pytest.raises(UserError, match=r"not the trained one: max_abs_logit_difference is .* They part at layer 1"):
        stage.main()
    assert not list(root.glob("out/export.partial"))


def test_a_missing_checkpoint_names_the_stage_to_run(
    workspace: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(workspace("empty"))
    with pytest.raises(UserError, match=r"'out/pretrain/checkpoint' is missing.*dvc repro pretrain"):
        stage.main()
