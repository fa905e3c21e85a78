"""Configurations of released models are read as the presets of their names, and nothing of them is lost in silence."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from model.convert.config import OTHER, Ids, from_config, to_config
from model.families.family import ModelSettings, by_name
from stages.errors import UserError
from stages.params import presets
from stages.settings import validate

PUBLISHED: dict[str, dict[str, Any]] = json.loads((Path(__file__).parent / "published.json").read_text())
"""The config.json of the repositories that the presets name, one a family."""
UNSUPPORTED: dict[str, tuple[dict[str, Any], str]] = {
    "llama-3.1-8b": ({"hidden_act": "gelu"}, 'hidden_act = "gelu", which would be "silu"'),
    "mistral-7b": ({"hidden_act": "gelu"}, 'hidden_act = "gelu", which would be "silu"'),
    "mixtral-8x7b": ({"sliding_window": 4096}, "sliding_window = 4096, which would be null"),
    "qwen2.5-7b": ({"hidden_act": "relu"}, 'hidden_act = "relu", which would be "silu"'),
    "qwen3-8b": ({"attention_bias": True}, "attention_bias = true, which would be false"),
    "qwen3-30b-a3b": ({"attention_bias": True}, "attention_bias = true, which would be false"),
    "deepseek-v2-lite": ({"mlp_bias": True}, "mlp_bias = true, which would be false"),
    "deepseek-v3": ({"rope_interleave": False}, "rope_interleave = false, which would be true"),
    "olmo-2-7b": ({"attention_bias": True}, "attention_bias = true, which would be false"),
    "olmo-3-7b": ({"hidden_act": "gelu"}, 'hidden_act = "gelu", which would be "silu"'),
    "pythia-1.4b": ({"hidden_act": "relu"}, "activation: Input should be 'gelu' or 'gelu_fast'"),
}
"""Of each, a change that `transformers` knows and we do not, and how it is refused."""
EVERY = pytest.mark.parametrize("name", PUBLISHED)


def write(folder: Path, name: str, **changes: Any) -> Path:
    """Write a published configuration, of a model whose weights are not quantised."""
    values = {key: value for key, value in PUBLISHED[name].items() if key != "quantization_config"}
    (folder / "config.json").write_text(json.dumps(values | changes))
    return folder


def preset(name: str) -> ModelSettings:
    return validate("model", ModelSettings, presets()[name]["model"], name)


def test_every_family_has_one() -> None:
    assert {values["model_type"] for values in PUBLISHED.values()} == by_name().keys()
    assert UNSUPPORTED.keys() == PUBLISHED.keys()


@EVERY
def test_a_published_configuration_is_its_preset_with_another_context(name: str, tmp_path: Path) -> None:
    model, config = from_config(write(tmp_path, name))
    assert model.seq_length == PUBLISHED[name]["max_position_embeddings"]
    assert model.model_copy(update={"seq_length": preset(name).seq_length}) == preset(name)
    assert config.vocab_size == presets()[name]["tokenizer"]["vocab_size"]


@EVERY
def test_a_published_configuration_comes_back(name: str, tmp_path: Path) -> None:
    model, config = from_config(write(tmp_path, name))
    found = to_config(model, Ids(config.vocab_size, 0, 0)).to_dict()
    unused = {"sliding_window"} if PUBLISHED[name].get("use_sliding_window") is False else set()
    compared = {key: value for key, value in PUBLISHED[name].items() if key in found.keys() - OTHER - unused}
    assert len(compared) > 9
    assert {key: found[key] for key in compared} == compared


@EVERY
def test_what_a_family_does_not_support_is_refused_with_what_would_be_lost(name: str, tmp_path: Path) -> None:
    changes, message = UNSUPPORTED[name]
    with pytest.raises(UserError, match=re.escape(message)):
        from_config(write(tmp_path, name, **changes))


def test_quantised_weights_are_refused(tmp_path: Path) -> None:
    quantised = {"quantization_config": PUBLISHED["deepseek-v3"]["quantization_config"]}
    with pytest.raises(UserError, match="holds quantised weights"):
        from_config(write(tmp_path, "deepseek-v3", **quantised))
