"""What all model families have in common, and what each says of itself. Imports no torch.

A family is one file of this folder, named as `transformers` names the type of model, with one class derived from
`ModelSettings`. The file is all it takes: families are found by their files.
"""

import importlib
import json
import pkgutil
from collections.abc import Iterator
from functools import cache
from typing import TYPE_CHECKING, Any, ClassVar, Self

from pydantic import Field, ModelWrapValidatorHandler, model_validator

from model import families
from model.families.rope import RopeScaling, rope_parameters, rotary_settings
from model.families.weights import Weight, attention, gated_mlp, norms, outer
from stages.settings import Settings

if TYPE_CHECKING:
    from megatron.core.transformer.spec_utils import ModuleSpec


class MoESettings(Settings):
    """A mixture of experts in place of an MLP (Shazeer et al. 2017)."""

    num_experts: int = Field(gt=1)
    """Experts of a layer."""
    router_topk: int = Field(gt=0)
    """Experts that a token visits."""
    aux_loss_coefficient: float = Field(default=0.01, ge=0)
    """Weight of the loss that balances the experts."""

    @model_validator(mode="after")
    def _topk_exists(self) -> Self:
        if self.router_topk > self.num_experts:
            raise ValueError(f"router_topk {self.router_topk} is above num_experts {self.num_experts}; lower it")
        return self


class ModelSettings(Settings):
    """A decoder with RMSNorm, rotary positions, grouped-query attention and SwiGLU (Touvron et al. 2023, Llama).

    Families say what is other in them. Validating it returns the settings of the family that the value names.
    """

    architecture: ClassVar[str]
    """The class of `transformers` that is the same model."""
    names: ClassVar[dict[str, str]] = {
        "num_layers": "num_hidden_layers",
        "hidden_size": "hidden_size",
        "ffn_hidden_size": "intermediate_size",
        "num_attention_heads": "num_attention_heads",
        "num_query_groups": "num_key_value_heads",
        "seq_length": "max_position_embeddings",
        "layernorm_epsilon": "rms_norm_eps",
        "share_embeddings_and_output_weights": "tie_word_embeddings",
        "init_method_std": "initializer_range",
    }
    """Fields that `transformers` has under another name, with that name."""
    conversion_only: ClassVar[str | None] = None
    """Why a model of this family can be converted, but none is trained; None if one can be."""

    family: str
    """The family: the name of its file."""
    num_layers: int = Field(gt=0)
    """Transformer layers."""
    hidden_size: int = Field(gt=0)
    """Width of the residual stream."""
    ffn_hidden_size: int = Field(gt=0)
    """Width of the MLP."""
    num_attention_heads: int = Field(gt=0)
    """Query heads."""
    num_query_groups: int = Field(gt=0)
    """Key and value heads, shared by equal groups of query heads (Ainslie et al. 2023)."""
    kv_channels: int | None = Field(default=None, gt=0)
    """Width of a head; hidden_size / num_attention_heads if null."""
    seq_length: int = Field(gt=1)
    """Tokens in one training sequence, and the longest context of the exported model."""
    rotary_base: float = Field(default=10000.0, gt=0)
    """Base of the rotary frequencies (`rope_theta`)."""
    rope_scaling: RopeScaling | None = None
    """How the rotary frequencies are changed for longer context, or not at all."""
    layernorm_epsilon: float = Field(default=1e-5, gt=0)
    """Added to the mean square, or to the variance, in a norm."""
    share_embeddings_and_output_weights: bool = False
    """Whether the output projection is the embedding table."""
    init_method_std: float = Field(default=0.02, gt=0)
    """Standard deviation of initial weights; projections back into the residual are divided by sqrt(2 * num_layers)."""
    make_vocab_size_divisible_by: int = Field(default=128, gt=0)
    """The embedding table is padded to this multiple, whatever the layout, so that every layout has the same table."""

    @model_validator(mode="wrap")
    @classmethod
    def _of_its_family(cls, value: Any, handler: ModelWrapValidatorHandler[Self]) -> Self:
        if cls is not ModelSettings or isinstance(value, ModelSettings):
            return handler(value)
        name = value.get("family") if isinstance(value, dict) else None
        if name not in (known := by_name()):
            raise ValueError(f"family {name!r} is not known; set family to one of {sorted(known)}")
        settings: Any = known[name].model_validate_json(json.dumps(value))
        return settings  # type: ignore[no-any-return]

    @model_validator(mode="after")
    def _heads_divide(self) -> Self:
        if self.kv_channels is None and self.hidden_size % self.num_attention_heads:
            raise ValueError(
                f"hidden_size {self.hidden_size} is not divisible by num_attention_heads {self.num_attention_heads}; "
                "choose a multiple, or set kv_channels"
            )
        if self.head_dim % 2:
            raise ValueError(f"a head is {self.head_dim} wide, which must be even for rotary positions; change it")
        if self.num_attention_heads % self.num_query_groups:
            raise ValueError(
                f"num_attention_heads {self.num_attention_heads} is not divisible by num_query_groups "
                f"{self.num_query_groups}; choose a divisor"
            )
        return self

    @property
    def head_dim(self) -> int:
        """Width of a head."""
        return self.kv_channels or self.hidden_size // self.num_attention_heads

    @property
    def rotary_width(self) -> int:
        """Dimensions of a head that rotary positions turn."""
        return self.head_dim

    @property
    def rope_scalings(self) -> tuple[RopeScaling | None, ...]:
        """How the rotary frequencies are changed: in all layers, or in layers without and in layers with a window."""
        return (self.rope_scaling,)

    @property
    def experts(self) -> MoESettings | None:
        """The mixture of experts, or none."""
        return None

    @property
    def num_expert_layers(self) -> int:
        """Layers with a mixture of experts."""
        return self.num_layers if self.experts else 0

    @property
    def attention_width(self) -> int:
        """What attention multiplies for a pair of tokens: the mean of the widths of all its keys and all its values."""
        return self.num_attention_heads * self.head_dim

    def attended(self, seq_length: int) -> int:
        """Return how many tokens a token attends to in all layers together, the masked half counted."""
        return self.num_layers * seq_length

    def split_sizes(self) -> dict[str, int]:
        """Return what tensor parallelism divides, by name. Experts are whole."""
        names = ["num_attention_heads", "num_query_groups", "make_vocab_size_divisible_by"]
        return {name: getattr(self, name) for name in [*names, *([] if self.experts else ["ffn_hidden_size"])]}

    def padded_vocab_size(self, vocab_size: int) -> int:
        """Return the number of rows of the embedding table for a tokenizer of `vocab_size` ids."""
        multiple = self.make_vocab_size_divisible_by
        return -(-vocab_size // multiple) * multiple

    def config(self) -> dict[str, Any]:
        """Return what the configuration of `transformers` says of this model."""
        return {
            **{theirs: getattr(self, ours) for ours, theirs in self.names.items()},
            "head_dim": self.head_dim,
            "rope_parameters": rope_parameters(self.rotary_base, self.rope_scaling),
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> dict[str, Any]:
        """Return the settings of the model that a configuration of `transformers` describes.

        What they cannot say is lost here; the caller compares `config` of the result.

        Args:
            config: All its values, defaults too.

        Raises:
            ValidationError: The scaling of its rotary positions is not known.
        """
        values = {ours: config[theirs] for ours, theirs in cls.names.items()}
        base, scaling = rotary_settings(config["rope_parameters"])
        head = config.get("head_dim")
        usual = head is None or head * config["num_attention_heads"] == config["hidden_size"]
        return {
            "family": config["model_type"],
            **values,
            "kv_channels": None if usual else head,
            "rotary_base": base,
            "rope_scaling": scaling.model_dump() if scaling else None,
        }

    def megatron(self) -> dict[str, Any]:
        """Return what is other in Megatron-Core's TransformerConfig."""
        return {}

    def adapt(self, layer: "ModuleSpec") -> None:
        """Change Megatron-Core's specification of a layer, which has our attention, activation and norms in it."""

    def weights(self, vocab_size: int) -> Iterator[Weight]:
        """Yield how every weight corresponds to the tensors of `transformers`."""
        yield from outer(self.padded_vocab_size(vocab_size), vocab_size, self.share_embeddings_and_output_weights)
        for layer in range(self.num_layers):
            yield from self.layer_weights(layer, f"decoder.layers.{layer}.", f"model.layers.{layer}.")

    def is_beside(self, name: str) -> bool:  # noqa: ARG002
        """Return whether a tensor of that name, which a checkpoint may hold too, is left out in an import."""
        return False

    def layer_weights(self, layer: int, ours: str, theirs: str) -> Iterator[Weight]:  # noqa: ARG002
        """Yield the weights of a layer.

        Args:
            layer: Its index.
            ours: Prefix of its weights in Megatron-Core.
            theirs: Prefix in `transformers`.
        """
        yield from norms(ours, theirs)
        yield from attention(ours, theirs, self.num_query_groups, self.num_attention_heads // self.num_query_groups)
        yield from gated_mlp(ours + "mlp.", theirs + "mlp.")


@cache
def by_name() -> dict[str, type[ModelSettings]]:
    """Return the settings of every family by its name."""
    names = [file.name for file in pkgutil.iter_modules(families.__path__)]
    modules = [importlib.import_module(f"model.families.{name}") for name in names]
    classes = [value for module in modules for value in vars(module).values() if isinstance(value, type)]
    found = [value for value in classes if issubclass(value, ModelSettings) and "architecture" in vars(value)]
    return {value.__module__.rpartition(".")[2]: value for value in found}
