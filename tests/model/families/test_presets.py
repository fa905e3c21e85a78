"""The presets of `model/presets/models` are the models that they are named after."""

import json
import re
from collections.abc import Iterator
from contextlib import nullcontext
from typing import Any, NamedTuple

import pytest
import torch

from model.convert import unsplit
from model.convert.config import Ids, model_class, to_config
from model.families.family import ModelSettings
from stages.errors import UserError
from stages.params import PRESETS, check, overlay, presets
from stages.settings import PARAMS, read_yaml, validate

RELEASED = {  # number of elements in the released tensors; a tied output layer, stored or not, is counted once
    # Safetensors metadata of the repositories named in the presets (Hugging Face's API, field safetensors.total).
    "llama-2-7b": 6_738_415_616,  # without 2,048 stored rotary frequencies
    "llama-3.1-8b": 8_030_261_248,
    "llama-3.1-70b": 70_553_706_496,
    "llama-3.2-1b": 1_235_814_400,
    "mistral-7b": 7_241_732_096,
    "mixtral-8x7b": 46_702_792_704,
    "qwen2.5-0.5b": 494_032_768,
    "qwen2.5-1.5b": 1_543_714_304,
    "qwen2.5-7b": 7_615_616_512,
    "qwen2.5-72b": 72_706_203_648,
    "qwen3-0.6b": 596_049_920,  # stored with its tied output layer: 751,632,384
    "qwen3-1.7b": 1_720_574_976,  # stored with its tied output layer: 2,031,739,904
    "qwen3-4b": 4_022_468_096,
    "qwen3-8b": 8_190_735_360,
    "qwen3-14b": 14_768_307_200,
    "qwen3-32b": 32_762_123_264,
    "qwen3-30b-a3b": 30_532_122_624,
    "qwen3-235b-a22b": 235_093_634_560,
    "deepseek-v2-lite": 15_706_484_224,
    "deepseek-v3": 671_026_419_200,  # main model: without multi-token prediction and the scales of its fp8
    "olmo-2-1b": 1_484_916_736,
    "olmo-2-7b": 7_298_617_344,
    "olmo-2-13b": 13_716_198_400,
    "olmo-2-32b": 32_234_279_936,
    "olmo-3-7b": 7_298_011_136,
    "olmo-3-32b": 32_233_522_176,
    # Model cards of EleutherAI/pythia-*, table of current and old names.
    "pythia-70m": 70_426_624,
    "pythia-160m": 162_322_944,
    "pythia-410m": 405_334_016,
    "pythia-1b": 1_011_781_632,
    "pythia-1.4b": 1_414_647_808,
    "pythia-2.8b": 2_775_208_960,
    "pythia-6.9b": 6_857_302_016,
    "pythia-12b": 11_846_072_320,
}
OURS = {"llama-4m": 3_409_664, "llama-120m": 122_702_592, "llama-1.7b": 1_711_376_384}
PARAMETERS = {**RELEASED, **OURS}
PRESET = presets()
RUNS = {"llama-120m": "gpu-120m", "llama-1.7b": "gpu-1700m"}
EVERY = pytest.mark.parametrize("name", PARAMETERS)


class Preset(NamedTuple):
    model: ModelSettings
    vocab_size: int


@pytest.fixture(scope="module", autouse=True)
def one_process() -> Iterator[None]:
    with unsplit.process(num_threads=1):
        yield


def preset(name: str) -> Preset:
    values = PRESET[name]
    return Preset(validate("model", ModelSettings, values["model"], name), values["tokenizer"]["vocab_size"])


def in_transformers(chosen: Preset) -> int:
    with torch.device("meta"):
        network: Any = model_class(chosen.model)(to_config(chosen.model, Ids(chosen.vocab_size, 0, 0)))
    return sum({id(tensor): tensor.numel() for tensor in network.state_dict(keep_vars=True).values()}.values())


def in_megatron(chosen: Preset) -> int:
    """Count two models of few layers, and add the layers that are left, which are all as the last one."""
    dense = getattr(chosen.model.experts, "num_dense_layers", 0)
    fewer, more = (sum(shallow(chosen, dense + layers).values()) for layers in (1, 2))
    return fewer + (chosen.model.num_layers - dense - 1) * (more - fewer)


def shallow(chosen: Preset, num_layers: int) -> dict[str, int]:
    """Return the elements of the tensors of a model of few layers, without padding and multi-token prediction."""
    model, vocab_size = chosen.model.model_copy(update={"num_layers": num_layers}), chosen.vocab_size
    padding = {weight.megatron: weight.padding for weight in model.weights(vocab_size)}
    with torch.device("meta"):
        own = unsplit.build(model, vocab_size).state_dict().items()
    tensors = {name: tensor for name, tensor in own if isinstance(tensor, torch.Tensor) and not name.startswith("mtp.")}
    return {name: tensor.numel() - padding[name] * tensor.shape[-1] for name, tensor in tensors.items()}


def test_every_preset_is_in_the_tables_and_says_its_size() -> None:
    runs = {file.stem for file in PRESETS.glob("*.yaml")}
    assert PRESET.keys() - runs == PARAMETERS.keys()
    remarks = "".join(file.read_text() for file in sorted((PRESETS / "models").glob("*.yaml")))
    found = re.findall(r"^(\S+):  # .* ([\d,]+) parameters", remarks, re.MULTILINE)
    assert {name: int(number.replace(",", "")) for name, number in found} == PARAMETERS


@EVERY
def test_a_preset_has_the_weights_of_the_released_model(name: str) -> None:
    chosen = preset(name)
    assert in_transformers(chosen) == PARAMETERS[name]
    assert in_megatron(chosen) == PARAMETERS[name]


def test_deepseek_v3_predicts_further_tokens_with_the_released_weights() -> None:
    """The repository repeats the embedding and the output layer in them: 684,489,845,504 elements in all."""
    model, vocab_size = preset("deepseek-v3")
    with torch.device("meta"):
        own = unsplit.build(model.model_copy(update={"num_layers": 4}), vocab_size).state_dict()
    found = sum(tensor.numel() for name, tensor in own.items() if name.startswith("mtp.") and tensor is not None)
    repeated = 2 * vocab_size * model.hidden_size
    assert found + repeated == 684_489_845_504 - PARAMETERS["deepseek-v3"]


@EVERY
def test_a_preset_comes_back_from_its_transformers_configuration(name: str) -> None:
    model = preset(name).model
    config = to_config(model, Ids(preset(name).vocab_size, 0, 0))
    again = type(model).model_validate_json(json.dumps(type(model).from_config(config.to_dict())))
    assert again == model


def test_a_preset_over_a_run_and_another_preset_can_be_trained_and_leaves_nothing_of_the_other() -> None:
    params = dict(read_yaml(PRESETS.parents[1] / PARAMS))
    overlay(params, PRESET["gpu-1700m"])
    for name in PARAMETERS:
        overlay(params, PRESET[name])
        model = preset(name).model
        with pytest.raises(UserError, match="reads text by other rules") if model.conversion_only else nullcontext():
            check(params, name)
        assert validate("model", ModelSettings, params["model"], name) == model


@pytest.mark.parametrize("name", RUNS)
def test_a_run_trains_the_shape_of_its_name(name: str) -> None:
    assert preset(name) == preset(RUNS[name])
