"""Which layers of Qwen models have a window, or experts."""

from typing import Any

import pytest
from pydantic import ValidationError
from transformers import Qwen2Config, Qwen3Config
from transformers.models.qwen3_moe.modeling_qwen3_moe import Qwen3MoeSparseMoeBlock

from model.families.qwen2 import Qwen2
from model.families.qwen3 import Qwen3
from model.families.qwen3_moe import Qwen3Moe
from tests.model.families import table


@pytest.mark.parametrize("family", [Qwen2, Qwen3])
@pytest.mark.parametrize("layers", [0, 3, 4, 9])
def test_windows_are_in_the_layers_of_transformers(family: type[Qwen2], layers: int) -> None:
    model = family(**table.SHAPE, sliding_window=5, max_window_layers=layers)
    config: Any = (Qwen3Config if family is Qwen3 else Qwen2Config)(**model.config())
    assert model.has_window == [kind == "sliding_attention" for kind in config.layer_types]


def test_a_configuration_that_uses_no_window_has_none() -> None:
    config = Qwen2Config(use_sliding_window=False, sliding_window=4096, max_window_layers=21)
    model = Qwen2.model_validate(Qwen2.from_config(config.to_dict()))
    assert (model.sliding_window, model.max_window_layers) == (None, 21)
    assert "window_size" not in model.megatron()


@pytest.mark.parametrize(("step", "without"), [(1, []), (2, []), (3, [2]), (1, [0, 3])])
def test_experts_are_in_the_layers_of_transformers(step: int, without: list[int]) -> None:
    moe = {**table.EXPERTS, "decoder_sparse_step": step, "mlp_only_layers": without}
    model = Qwen3Moe.model_validate({**table.SHAPE, "num_layers": 6, "moe": moe})
    layers: Any = table.transformers_model(model).base_model.layers
    assert model.has_experts == [isinstance(layer.mlp, Qwen3MoeSparseMoeBlock) for layer in layers]
    assert model.num_expert_layers == sum(model.has_experts)


def test_a_mixture_without_experts_is_refused() -> None:
    moe = {**table.EXPERTS, "mlp_only_layers": [0, 1, 2, 3]}
    with pytest.raises(ValidationError, match="leave no layer of num_layers 4 with experts"):
        Qwen3Moe.model_validate({**table.SHAPE, "moe": moe})
