"""Mistral (Jiang et al. 2023): Llama with a sliding window in every layer, in later releases with none."""

from typing import ClassVar, Literal

from model.families.windows import WindowSettings


class Mistral(WindowSettings):
    """MistralForCausalLM."""

    architecture: ClassVar[str] = "MistralForCausalLM"

    family: Literal["mistral"] = "mistral"
