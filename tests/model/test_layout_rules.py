"""What a layout cannot be, told before any process starts."""

from typing import Any

import pytest

from model.families.family import ModelSettings
from model.layout import LayoutSettings
from model.plan import check
from model.settings import PretrainSettings
from stages.errors import UserError

MODEL: dict[str, Any] = {
    "family": "llama",
    "num_layers": 4,
    "hidden_size": 32,
    "ffn_hidden_size": 48,
    "num_attention_heads": 4,
    "num_query_groups": 4,
    "seq_length": 32,
}
PRETRAIN: dict[str, Any] = {
    "device": "cpu",
    "precision": "float32",
    "num_threads": 1,
    "weight_seed": 1,
    "data_seed": 1,
    "phases": {"main": {"tokens": 4096, "blend": {"code": 1.0}, "global_batch_size": 8}},
    "micro_batch_size": 2,
    "schedule": {"style": "constant", "learning_rate": 1e-3, "min_learning_rate": 1e-3, "warmup_steps": 0},
    "optimizer": {"weight_decay": 0.1},
    "eval_interval": 1,
    "eval_sequences": 1,
    "checkpoint_interval": 1,
}
MOE = {"family": "mixtral", "moe": {"num_experts": 6, "router_topk": 2}}


def settings(
    layout: dict[str, Any], model: dict[str, Any], pretrain: dict[str, Any]
) -> tuple[ModelSettings, PretrainSettings]:
    made = PretrainSettings.model_validate(PRETRAIN | pretrain | {"layout": layout})
    return ModelSettings.model_validate(MODEL | model), made


@pytest.mark.parametrize(
    ("layout", "model", "pretrain", "message"),
    [
        ({"tensor_model_parallel_size": 3}, {}, {}, r"num_attention_heads = 4 is not divisible by .*tensor.* = 3"),
        ({"tensor_model_parallel_size": 4}, {"ffn_hidden_size": 50}, {}, "ffn_hidden_size = 50 is not divisible"),
        ({"pipeline_model_parallel_size": 3}, {}, {}, r"num_layers = 4 is not divisible by .* = 3"),
        ({"virtual_pipeline_model_parallel_size": 2}, {}, {}, "interleaves pipeline stages, of which there is one"),
        (
            {"sequence_parallel": True},
            {},
            {},
            "splits the sequence over tensor-parallel processes, of which there is one",
        ),
        ({"expert_model_parallel_size": 2}, {}, {}, "the model has no experts; set it to 1"),
        ({"expert_model_parallel_size": 4, "data_parallel_size": 4}, MOE, {"micro_batch_size": 1}, "num_experts = 6"),
        ({"expert_model_parallel_size": 2}, MOE, {}, "= 2 does not divide the 1 tensor-, context- and data-parallel"),
        ({"tensor_model_parallel_size": 2}, MOE, {}, "needs sequence_parallel .* train every token 2 times"),
        ({"context_parallel_size": 2}, {"seq_length": 30}, {}, "seq_length 30 is not divisible by 2 .* = 4"),
        ({"data_parallel_size": 3}, {}, {}, r"global_batch_size 8 is not divisible by .* = 6"),
        (
            {"pipeline_model_parallel_size": 2, "virtual_pipeline_model_parallel_size": 2},
            {},
            {"micro_batch_size": 8},
            "makes 1 micro batches, which interleaved stages need",
        ),
        (
            {"data_parallel_size": 2, "distributed_optimizer": True},
            {},
            {"optimizer": {"kind": "muon", "weight_decay": 0.1}},
            "muon needs whole matrices",
        ),
        ({}, {}, {"precision": "fp8"}, "fp8 needs a GPU"),
        (
            {"tensor_model_parallel_size": 2},
            {},
            {"precision": "fp8", "device": "cuda"},
            "fp8 needs multiples of 16, and the ffn_hidden_size of a process is 24; change it or choose bf16",
        ),
        (
            {},
            {"seq_length": 20},
            {"precision": "fp8", "device": "cuda"},
            "the tokens of a micro batch of phase main is 40",
        ),
    ],
)
def test_what_cannot_be_is_refused_with_the_reason(
    layout: dict[str, Any], model: dict[str, Any], pretrain: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        check(*settings(layout, model, pretrain))


@pytest.mark.parametrize(
    ("layout", "model", "pretrain"),
    [
        ({}, {}, {}),
        ({"tensor_model_parallel_size": 2, "sequence_parallel": True}, MOE | {"ffn_hidden_size": 49}, {}),
        ({"tensor_model_parallel_size": 2, "data_parallel_size": 2, "distributed_optimizer": True}, {}, {}),
        ({"expert_model_parallel_size": 2, "data_parallel_size": 2, "pipeline_model_parallel_size": 2}, MOE, {}),
        ({"context_parallel_size": 4, "tensor_model_parallel_size": 4, "sequence_parallel": True}, {}, {}),
        ({}, {}, {"precision": "fp8", "device": "cuda"}),
    ],
)
def test_what_can_be_is_not_refused(layout: dict[str, Any], model: dict[str, Any], pretrain: dict[str, Any]) -> None:
    check(*settings(layout, model, pretrain))


def test_every_refusal_of_a_layout_is_told_at_once() -> None:
    with pytest.raises(UserError) as refused:
        check(*settings({"tensor_model_parallel_size": 3, "pipeline_model_parallel_size": 3}, {}, {}))
    assert "num_attention_heads" in str(refused.value) and "num_layers" in str(refused.value)


def test_the_number_of_processes_is_the_product_without_experts() -> None:
    degrees = {name: 2 for name in LayoutSettings.model_fields if name.endswith("_size")}
    assert LayoutSettings.model_validate(degrees).world_size == 2**4  # tensor, pipeline, context, data
