"""GPT-NeoX (Black et al. 2022; Pythia: Biderman et al. 2023): LayerNorm, GELU, biases, and a parallel residual.

A head turns only its first dimensions, and every query head has its own key and value.
"""

from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from model.families.family import ModelSettings
from model.families.weights import Weight, same, vocabulary

if TYPE_CHECKING:
    from megatron.core.transformer.spec_utils import ModuleSpec


class GPTNeoX(ModelSettings):
    """GPTNeoXForCausalLM."""

    architecture: ClassVar[str] = "GPTNeoXForCausalLM"
    names: ClassVar[dict[str, str]] = {
        **{ours: theirs for ours, theirs in ModelSettings.names.items() if ours != "num_query_groups"},
        "layernorm_epsilon": "layer_norm_eps",
        "activation": "hidden_act",
        "attention_bias": "attention_bias",
        "use_parallel_residual": "use_parallel_residual",
    }

    family: Literal["gpt_neox"] = "gpt_neox"
    rotary_percent: float = Field(default=0.25, gt=0, le=1)
    """Share of a head that rotary positions turn."""
    activation: Literal["gelu", "gelu_fast"] = "gelu"
    """Of the MLP: exact, or by tanh as in GPT-NeoX-20B (Hendrycks & Gimpel 2016)."""
    attention_bias: bool = True
    """Whether the matrices of attention have biases, as those of the MLP do."""
    use_parallel_residual: bool = True
    """Whether attention and MLP of a layer read the same input, or the MLP what attention made of it."""

    @model_validator(mode="after")
    def _heads_are_alike(self) -> Self:
        if self.num_query_groups != self.num_attention_heads:
            raise ValueError(
                f"num_query_groups {self.num_query_groups} is not num_attention_heads {self.num_attention_heads}: "
                "GPT-NeoX's query heads share no keys; set it to that"
            )
        if self.kv_channels is not None:
            raise ValueError("GPT-NeoX's heads are hidden_size / num_attention_heads wide; set kv_channels to null")
        if self.rotary_width % 2 or not self.rotary_width:
            raise ValueError(
                f"rotary_percent {self.rotary_percent} turns {self.rotary_width} of the {self.head_dim} dimensions of "
                "a head, which must be an even number above 0; change it"
            )
        return self

    @property
    def rotary_width(self) -> int:
        """Dimensions of a head that rotary positions turn."""
        return int(self.head_dim * self.rotary_percent)

    def config(self) -> dict[str, Any]:
        """Return what the configuration of `transformers` says of this model."""
        config = super().config()
        del config["head_dim"]
        return {**config, "rope_parameters": config["rope_parameters"] | {"partial_rotary_factor": self.rotary_percent}}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> dict[str, Any]:
        """Return the settings of the model that a configuration of `transformers` describes."""
        rope = dict(config["rope_parameters"])
        percent = rope.pop("partial_rotary_factor")
        return {
            **super().from_config({**config, "rope_parameters": rope}),
            "num_query_groups": config["num_attention_heads"],
            "rotary_percent": percent,
        }

    def megatron(self) -> dict[str, Any]:
        """Return what is other in Megatron-Core's TransformerConfig."""
        from torch.nn import functional

        return {
            "normalization": "LayerNorm",
            "add_bias_linear": self.attention_bias,
            "gated_linear_unit": False,
            "activation_func": (
                functional.gelu if self.activation == "gelu" else partial(functional.gelu, approximate="tanh")
            ),
        }

    def adapt(self, layer: "ModuleSpec") -> None:
        """Choose the residual, and give the MLP biases where Megatron-Core's switch, which is for all, is off."""
        from model.network.modules import with_bias
        from model.network.parallel_residual import ParallelResidualLayer

        if self.use_parallel_residual:
            layer.module = ParallelResidualLayer
        if not self.attention_bias:
            mlp = layer.submodules.mlp.submodules
            mlp.linear_fc1, mlp.linear_fc2 = map(with_bias, (mlp.linear_fc1, mlp.linear_fc2))

    def weights(self, vocab_size: int) -> Iterator[Weight]:
        """Yield how every weight corresponds to the tensors of `transformers`."""
        padded = self.padded_vocab_size(vocab_size)
        yield vocabulary("embedding.word_embeddings.weight", "gpt_neox.embed_in.weight", padded, vocab_size)
        if not self.share_embeddings_and_output_weights:
            yield vocabulary("output_layer.weight", "embed_out.weight", padded, vocab_size)
        yield from _biased("decoder.final_layernorm", "gpt_neox.final_layer_norm")
        for layer in range(self.num_layers):
            yield from self.layer_weights(layer, f"decoder.layers.{layer}.", f"gpt_neox.layers.{layer}.")

    def layer_weights(self, layer: int, ours: str, theirs: str) -> Iterator[Weight]:  # noqa: ARG002
        """Yield the weights of a layer. The fused projection has Megatron-Core's order: query, key, value of a head."""
        yield from _biased(ours + "input_layernorm", theirs + "input_layernorm")
        yield from _biased(ours + "pre_mlp_layernorm", theirs + "post_attention_layernorm")
        bias = self.attention_bias
        yield from _biased(ours + "self_attention.linear_qkv", theirs + "attention.query_key_value", bias)
        yield from _biased(ours + "self_attention.linear_proj", theirs + "attention.dense", bias)
        yield from _biased(ours + "mlp.linear_fc1", theirs + "mlp.dense_h_to_4h")
        yield from _biased(ours + "mlp.linear_fc2", theirs + "mlp.dense_4h_to_h")


def _biased(ours: str, theirs: str, bias: bool = True) -> Iterator[Weight]:
    for kind in ("weight", "bias") if bias else ("weight",):
        yield same(f"{ours}.{kind}", f"{theirs}.{kind}")
