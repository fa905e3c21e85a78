from model.layout import LayoutSettings
from model.network.accelerated import for_own_linear
from model.network.build import transformer_config
from tests.model import jobs


def test_linear_layers_of_megatron_core_add_to_gradients_only_where_they_can() -> None:
    config = transformer_config(jobs.LLAMA, LayoutSettings(), "float32")
    assert for_own_linear(config) is config
    config.gradient_accumulation_fusion = True  # as Transformer Engine has it; there is no Apex here
    own = for_own_linear(config)
    assert not own.gradient_accumulation_fusion
    assert config.gradient_accumulation_fusion
