"""Llama 2 and 3 (Touvron et al. 2023; Dubey et al. 2024): what the others are compared with."""

from typing import ClassVar, Literal

from model.families.family import ModelSettings


class Llama(ModelSettings):
    """LlamaForCausalLM."""

    architecture: ClassVar[str] = "LlamaForCausalLM"

    family: Literal["llama"] = "llama"
