"""Which layers have a window and which longer context, and what is refused."""

from typing import Any

import pytest
from pydantic import ValidationError
from transformers import Olmo3Config

from model.families.olmo3 import Olmo3

SHAPE: dict[str, Any] = {
    **{"num_layers": 6, "hidden_size": 32, "ffn_hidden_size": 48, "num_attention_heads": 4, "num_query_groups": 2},
    **{"seq_length": 64, "sliding_window": 16},
}
FULL, SLIDING = "full_attention", "sliding_attention"
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16}


def from_transformers(**changes: Any) -> Olmo3:
    """Return the settings of a configuration that `transformers` made of six layers."""
    config = Olmo3Config(num_hidden_layers=6, **changes)
    return Olmo3.model_validate(Olmo3.from_config(config.to_dict()))


def test_all_but_every_fourth_layer_have_a_window_if_nothing_is_said() -> None:
    usual = Olmo3(**SHAPE)
    assert usual.has_window == [True, True, True, False, True, True]
    assert usual.config()["layer_types"] == Olmo3Config(num_hidden_layers=6).layer_types
    assert from_transformers().layer_types is None


def test_layers_may_have_windows_in_any_order() -> None:
    types = [FULL, SLIDING, FULL, FULL, SLIDING, SLIDING]
    model = Olmo3.model_validate({**SHAPE, "layer_types": types})
    megatron = model.megatron()
    assert megatron["window_attn_skip_freq"] == [0, 1, 0, 0, 1, 1]
    assert megatron["window_size"] == (15, 0), "the token itself is one of the 16"
    assert from_transformers(layer_types=types).layer_types == types


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"layer_types": [FULL, SLIDING]}, "layer_types has 2 entries for num_layers = 6; give one a layer"),
        ({"rope_scaling": {**YARN, "truncate": False}}, "truncate is false, which transformers overlooks"),
    ],
)
def test_what_cannot_be_exported_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        Olmo3.model_validate({**SHAPE, **changes})


def test_only_layers_without_a_window_are_scaled() -> None:
    model = Olmo3.model_validate({**SHAPE, "rope_scaling": YARN})
    assert model.rope_scalings == (model.rope_scaling, None)
    assert model.config()["rope_parameters"] == {
        FULL: {**YARN, "rope_theta": 500000.0},
        SLIDING: {"rope_type": "default", "rope_theta": 500000.0},
    }
    assert Olmo3(**SHAPE).rope_scalings == (None,)
