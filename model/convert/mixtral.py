"""MixtralForCausalLM: Llama with a mixture of experts in place of each MLP (Jiang et al. 2024)."""

from collections.abc import Iterator

from transformers import MixtralConfig

from model.convert.llama import attention_weights, decoder_shape, outer_weights
from model.convert.weight_map import Weight, same, stacked
from model.settings import ModelSettings


def mixtral_config(model: ModelSettings, vocab_size: int, end_of_document: int, pad: int) -> MixtralConfig:
    """Return the `transformers` configuration of the same model. The end-of-document id opens and ends a text."""
    assert model.moe
    return MixtralConfig(
        **decoder_shape(model, vocab_size, end_of_document, pad),
        num_local_experts=model.moe.num_experts,
        num_experts_per_tok=model.moe.router_topk,
        router_aux_loss_coef=model.moe.aux_loss_coefficient,
        architectures=["MixtralForCausalLM"],
    )


def mixtral_weights(model: ModelSettings, vocab_size: int) -> Iterator[Weight]:
    """Yield every weight of the model. In an expert w1 is the gate, w3 the projection up and w2 the one down."""
    assert model.moe
    yield from outer_weights(model, vocab_size)
    for layer in range(model.num_layers):
        megatron, name = f"decoder.layers.{layer}.", f"model.layers.{layer}."
        yield from attention_weights(megatron, name, model)
        yield same(megatron + "mlp.router.weight", name + "block_sparse_moe.gate.weight")
        for index in range(model.moe.num_experts):
            expert = f"{name}block_sparse_moe.experts.{index}."
            local = f"{megatron}mlp.experts.local_experts.{index}."
            yield stacked(local + "linear_fc1.weight", (expert + "w1.weight", expert + "w3.weight"))
            yield same(local + "linear_fc2.weight", expert + "w2.weight")
