"""The parts of a model by the names of weights."""

import pytest

from model.optim.parts import part


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("module.embedding.word_embeddings.weight", "embedding"),
        ("module.module.output_layer.weight", "output"),
        ("decoder.layers.0.input_layernorm.weight", "norm"),
        ("decoder.layers.0.self_attention.q_layernorm.weight", "norm"),
        ("decoder.final_layernorm.weight", "norm"),
        ("decoder.layers.1.self_attention.linear_proj.post_layernorm.weight", "norm"),
        ("decoder.layers.1.pre_mlp_layernorm.bias", "norm"),
        ("decoder.layers.1.self_attention.linear_qkv.weight", "attention"),
        ("decoder.layers.1.self_attention.linear_qkv.bias", "attention"),
        ("decoder.layers.1.mlp.linear_fc1.weight", "mlp"),
        ("decoder.layers.1.mlp.router.weight", "router"),
        ("decoder.layers.1.mlp.experts.local_experts.0.linear_fc2.weight", "experts"),
        ("decoder.layers.1.mlp.shared_experts.linear_fc1.weight", "mlp"),
        ("mtp.layers.0.eh_proj.weight", "other"),
    ],
)
def test_a_weight_belongs_to_the_part_that_its_name_says(name: str, expected: str) -> None:
    assert part(name) == expected
