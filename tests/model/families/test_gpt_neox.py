"""What GPT-NeoX's settings refuse, and the model of its name."""

import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from model.convert.config import from_config
from model.families.gpt_neox import GPTNeoX
from stages.errors import UserError

SHAPE: dict[str, Any] = {
    **{"num_layers": 2, "hidden_size": 48, "ffn_hidden_size": 64, "num_attention_heads": 4, "num_query_groups": 4},
    "seq_length": 64,
}
GPT_NEOX_20B = {  # config.json of EleutherAI/gpt-neox-20b
    **{"architectures": ["GPTNeoXForCausalLM"], "model_type": "gpt_neox", "vocab_size": 50432},
    **{"attention_probs_dropout_prob": 0, "hidden_dropout_prob": 0, "bos_token_id": 0, "eos_token_id": 0},
    **{"hidden_size": 6144, "intermediate_size": 24576, "num_attention_heads": 64, "num_hidden_layers": 44},
    **{"hidden_act": "gelu_fast", "initializer_range": 0.02, "layer_norm_eps": 1e-05, "tie_word_embeddings": False},
    **{"max_position_embeddings": 2048, "rotary_emb_base": 10000, "rotary_pct": 0.25, "use_cache": True},
}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_query_groups": 2}, "num_query_groups 2 is not num_attention_heads 4"),
        ({"kv_channels": 16}, "set kv_channels to null"),
        ({"rotary_percent": 0.25}, "turns 3 of the 12 dimensions of a head, which must be an even number"),
        ({"rotary_percent": 0.01}, "turns 0 of the 12 dimensions"),
    ],
)
def test_what_the_model_cannot_be_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        GPTNeoX.model_validate({**SHAPE, "rotary_percent": 0.5, **changes})


def write(folder: Path, **changes: Any) -> Path:
    (folder / "config.json").write_text(json.dumps(GPT_NEOX_20B | changes))
    return folder


def test_gpt_neox_20b_is_one_whose_gelu_is_made_of_tanh(tmp_path: Path) -> None:
    model, _ = from_config(write(tmp_path))
    shape = {"num_layers": 44, "hidden_size": 6144, "ffn_hidden_size": 24576, "seq_length": 2048}
    heads = {"num_attention_heads": 64, "num_query_groups": 64}
    assert model == GPTNeoX.model_validate({**shape, **heads, "activation": "gelu_fast"})
    assert model.rotary_width == 24


def test_positions_that_stretch_while_a_text_grows_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="dynamic"):
        from_config(write(tmp_path, rope_scaling={"rope_type": "dynamic", "factor": 2.0}))
