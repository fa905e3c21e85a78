"""OLMo 3 (Team OLMo 2025): OLMo 2 with a sliding window in most layers, and longer context in the others alone."""

from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from model.families.olmo2 import Olmo2
from model.families.rope import RopeScaling, Yarn, rope_parameters
from model.families.windows import WindowSettings

if TYPE_CHECKING:
    from megatron.core.transformer.spec_utils import ModuleSpec

LayerType = Literal["sliding_attention", "full_attention"]


class Olmo3(Olmo2, WindowSettings):
    """Olmo3ForCausalLM."""

    architecture: ClassVar[str] = "Olmo3ForCausalLM"

    family: Literal["olmo3"] = "olmo3"  # type: ignore[assignment]
    rotary_base: float = Field(default=500000.0, gt=0)
    """Base of the rotary frequencies (`rope_theta`) of all layers."""
    rope_scaling: RopeScaling | None = None
    """How the rotary frequencies of layers without a window are changed for longer context, or not at all."""
    sliding_window: int = Field(default=4096, gt=0)
    """Tokens that a token sees in a layer with a window, itself and those just before it."""
    layer_types: list[LayerType] | None = None
    """Which layers have a window; null for all but every fourth."""

    @model_validator(mode="after")
    def _every_layer_has_a_type(self) -> Self:
        if self.layer_types is not None and len(self.layer_types) != self.num_layers:
            raise ValueError(
                f"layer_types has {len(self.layer_types)} entries for num_layers = {self.num_layers}; give one a layer"
            )
        return self

    @model_validator(mode="after")
    def _ends_are_rounded(self) -> Self:
        if isinstance(self.rope_scaling, Yarn) and self.rope_scaling.truncate is False:
            raise ValueError("rope_scaling.truncate is false, which transformers overlooks in OLMo 3; leave it out")
        return self

    @property
    def has_window(self) -> list[bool]:
        """Whether a layer has a window."""
        types = self.layer_types or _usual(self.num_layers)
        return [kind == "sliding_attention" for kind in types]

    @property
    def rope_scalings(self) -> tuple[RopeScaling | None, ...]:
        """How the rotary frequencies are changed: in all layers, or in layers without and in layers with a window."""
        return (self.rope_scaling, None) if self.rope_scaling else (None,)

    def config(self) -> dict[str, Any]:
        """Return what the configuration of `transformers` says of this model."""
        by_type = {"full_attention": self.rope_scaling, "sliding_attention": None}
        return {
            **super().config(),
            "layer_types": self.layer_types or _usual(self.num_layers),
            "rope_parameters": {kind: rope_parameters(self.rotary_base, scaling) for kind, scaling in by_type.items()},
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> dict[str, Any]:
        """Return the settings of the model that a configuration of `transformers` describes."""
        types = config["layer_types"]
        return {
            **super().from_config({**config, "rope_parameters": config["rope_parameters"]["full_attention"]}),
            "layer_types": None if types == _usual(len(types)) else types,
        }

    def adapt(self, layer: "ModuleSpec") -> None:
        """Put OLMo 2's norms in their places, and turn queries and keys as the layer's type asks for."""
        from model.network.rotary import SelfAttentionByWindow

        super().adapt(layer)
        if len(self.rope_scalings) > 1:
            layer.submodules.self_attention.module = SelfAttentionByWindow


def _usual(num_layers: int) -> list[LayerType]:
    return ["sliding_attention" if layer % 4 else "full_attention" for layer in range(1, num_layers + 1)]
