"""Rotary scalings are transformers' own settings, both ways."""

from typing import Any

import pytest
from pydantic import ValidationError
from transformers import LlamaConfig

from model.families.rope import rope_parameters, rotary_settings

SCALINGS: list[dict[str, Any]] = [
    {"rope_type": "default"},
    {"rope_type": "linear", "factor": 2.0},
    {
        "rope_type": "llama3",
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    },
    {"rope_type": "yarn", "factor": 40.0, "original_max_position_embeddings": 4096},
    {
        "rope_type": "yarn",
        "factor": 40.0,
        "original_max_position_embeddings": 4096,
        "attention_factor": 1.2,
        "beta_fast": 32.0,
        "beta_slow": 1.0,
        "mscale": 0.7,
        "mscale_all_dim": 1.0,
        "truncate": False,
    },
]


@pytest.mark.parametrize("scaling", SCALINGS, ids=lambda scaling: f"{scaling['rope_type']}-{len(scaling)}")
def test_parameters_come_back_as_transformers_holds_them(scaling: dict[str, Any]) -> None:
    held: Any = LlamaConfig(rope_parameters={**scaling, "rope_theta": 5e5}).rope_parameters
    assert rope_parameters(*rotary_settings(held)) == held


def test_the_old_form_of_a_config_is_read() -> None:
    old = {"type": "yarn", "factor": 40, "original_max_position_embeddings": 4096, "mscale": None}
    held: Any = LlamaConfig.from_dict({"rope_theta": 5e5, "rope_scaling": old}).rope_parameters
    base, scaling = rotary_settings(held)
    assert base == 5e5
    assert scaling is not None
    assert (scaling.rope_type, scaling.factor) == ("yarn", 40.0)


@pytest.mark.parametrize(
    ("parameters", "fault"),
    [
        ({"rope_type": "dynamic", "factor": 2.0}, "dynamic"),
        ({"rope_type": "linear"}, "factor"),
        ({"rope_type": "linear", "factor": 0.5}, "greater than or equal to 1"),
        ({"rope_type": "default", "partial_rotary_factor": 0.25}, "default"),
        ({**SCALINGS[2], "high_freq_factor": 1.0}, "high_freq_factor"),
    ],
)
def test_what_is_not_known_is_refused(parameters: dict[str, Any], fault: str) -> None:
    with pytest.raises(ValidationError, match=fault):
        rotary_settings({**parameters, "rope_theta": 1e4})
