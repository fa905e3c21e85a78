"""How rotary positions are stretched beyond the context that a model was trained on. Imports no torch.

The fields are the keys of `transformers`' `rope_parameters`, and mean what its `modeling_rope_utils` makes of them.
"""

from typing import Annotated, Any, Literal, Self

from pydantic import Field, TypeAdapter, model_validator

from stages.settings import Settings


class Linear(Settings):
    """Position interpolation (Chen et al. 2023): every frequency divided by the same factor."""

    rope_type: Literal["linear"]
    """Says which scaling this is."""
    factor: float = Field(ge=1)
    """By how much the context grows."""


class Llama3(Settings):
    """Llama 3.1's: slow frequencies divided by the factor, fast ones kept, a smooth passage between."""

    rope_type: Literal["llama3"]
    """Says which scaling this is."""
    factor: float = Field(ge=1)
    """By how much the context grows."""
    low_freq_factor: float = Field(gt=0)
    """Frequencies with fewer turns than this in the original context are slow."""
    high_freq_factor: float = Field(gt=0)
    """Frequencies with more turns than this in the original context are fast."""
    original_max_position_embeddings: int = Field(gt=0)
    """Tokens of the original context."""

    @model_validator(mode="after")
    def _passage_has_a_width(self) -> Self:
        if self.high_freq_factor <= self.low_freq_factor:
            raise ValueError(
                f"high_freq_factor {self.high_freq_factor} is not above low_freq_factor {self.low_freq_factor}; "
                "raise it"
            )
        return self


class Yarn(Settings):
    """YaRN (Peng et al. 2023): Llama3's idea with a linear passage, and a factor on queries and keys."""

    rope_type: Literal["yarn"]
    """Says which scaling this is."""
    factor: float = Field(ge=1)
    """By how much the context grows."""
    original_max_position_embeddings: int = Field(gt=0)
    """Tokens of the original context."""
    attention_factor: float | None = Field(default=None, gt=0)
    """Factor on rotated queries and keys; null takes the paper's, 0.1 * ln(factor) + 1, or that of the mscales."""
    beta_fast: float | None = Field(default=None, gt=0)
    """Turns in the original context from which a frequency is kept; null takes 32."""
    beta_slow: float | None = Field(default=None, gt=0)
    """Turns in the original context up to which a frequency is divided by the factor; null takes 1."""
    mscale: float | None = Field(default=None, ge=0)
    """With mscale_all_dim, attention_factor is (0.1 * mscale * ln(factor) + 1) / (the same of mscale_all_dim)."""
    mscale_all_dim: float | None = Field(default=None, ge=0)
    """See mscale; DeepSeek's attention also multiplies its scores by the square of its term."""
    truncate: bool | None = None
    """Whether the ends of the passage are rounded to whole dimensions; null does."""


RopeScaling = Annotated[Linear | Llama3 | Yarn, Field(discriminator="rope_type")]
"""A scaling of rotary positions, chosen by `rope_type`."""

_SCALING: TypeAdapter[Linear | Llama3 | Yarn] = TypeAdapter(RopeScaling)


def rope_parameters(base: float, scaling: Linear | Llama3 | Yarn | None) -> dict[str, Any]:
    """Return `transformers`' `rope_parameters` of a base and a scaling; what is unset is absent."""
    chosen = {"rope_type": "default"} if scaling is None else scaling.model_dump(exclude_none=True)
    return {**chosen, "rope_theta": base}


def rotary_settings(parameters: dict[str, Any]) -> tuple[float, Linear | Llama3 | Yarn | None]:
    """Return base and scaling of `transformers`' `rope_parameters`, the inverse of the above.

    Keys that are null, and `type`, the old name of `rope_type`, say nothing.

    Raises:
        ValidationError: The kind of scaling is not known, or a key of it is missing, unknown or against a rule.
    """
    given = {key: value for key, value in parameters.items() if value is not None and key != "type"}
    base = given.pop("rope_theta")
    if given.get("rope_type", "default") == "default" and given.keys() <= {"rope_type"}:
        return base, None
    return base, _SCALING.validate_python(given)
