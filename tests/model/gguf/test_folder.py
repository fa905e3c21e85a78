import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from stages.errors import UserError
from tests.model.gguf import made

Tensors = dict[str, Tensor]
NORM = "model.layers.1.input_layernorm.weight"


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made.folder(tmp_path_factory.mktemp("exported") / "model", made.model("llama"))


@pytest.fixture
def source(exported: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(exported, tmp_path / "model"))


def _not_a_number(tensors: Tensors) -> None:
    tensors[NORM][3] = torch.nan


def _infinite(tensors: Tensors) -> None:
    tensors["model.layers.0.mlp.up_proj.weight"][5] = torch.inf


def _transposed(tensors: Tensors) -> None:
    name = "model.layers.0.mlp.up_proj.weight"
    tensors[name] = tensors[name].t().contiguous()


REFUSED: dict[str, Callable[[Tensors], object]] = {
    rf"{NORM} is missing": lambda tensors: tensors.pop(NORM),
    r"model.extra is left over": lambda tensors: tensors.update({"model.extra": torch.zeros(2)}),
    r"up_proj.weight is \(64, 96\), not \(96, 64\)": _transposed,
    rf"{NORM} is I64": lambda tensors: tensors.update({NORM: torch.ones(64, dtype=torch.int64)}),
    rf"{NORM} has values that are NaN": _not_a_number,
    r"0.mlp.up_proj.weight has values that are NaN or infinite": _infinite,
}


@pytest.mark.parametrize("named", REFUSED)
def test_tensors_that_are_not_the_models_are_refused_by_name(named: str, source: Path) -> None:
    file = source / "model.safetensors"
    tensors = load_file(file)
    REFUSED[named](tensors)
    save_file(tensors, file, {"format": "pt"})
    with pytest.raises(UserError, match=named):
        made.gguf(source)
    assert [left.name for left in source.parent.iterdir()] == ["model"]


def test_truncated_weights_are_refused(source: Path) -> None:
    file = source / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(UserError, match=r"model.safetensors' is damaged"):
        made.gguf(source)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_a_missing_file_is_refused_by_name(name: str, source: Path) -> None:
    (source / name).unlink()
    with pytest.raises(UserError, match=rf"{name}' is missing"):
        made.gguf(source)


def test_an_architecture_that_llama_cpp_is_not_given_is_refused_with_those_that_are(source: Path) -> None:
    made.rewrite(source / "config.json", architectures=["BertForMaskedLM"])
    with pytest.raises(UserError, match=r"BertForMaskedLM.*LlamaForCausalLM.*GPTNeoXForCausalLM"):
        made.gguf(source)


def test_a_configuration_that_transformers_cannot_read_is_refused(source: Path) -> None:
    made.rewrite(source / "config.json", num_attention_heads=5)
    with pytest.raises(UserError, match=r"config.json' cannot be read by transformers: .*hidden size \(64\)"):
        made.gguf(source)


def test_a_damaged_index_is_refused(source: Path) -> None:
    (source / "model.safetensors.index.json").write_text("{}")
    with pytest.raises(UserError, match=r"index.json' is damaged"):
        made.gguf(source)


def test_quantised_weights_are_refused(source: Path) -> None:
    made.rewrite(source / "config.json", quantization_config={"quant_method": "gptq"})
    with pytest.raises(UserError, match=r"holds quantised weights"):
        made.gguf(source)


def test_an_output_layer_saved_with_its_table_is_dropped_if_it_is_the_same(tmp_path: Path) -> None:
    source = made.folder(tmp_path / "model", made.model("llama tied"))
    whole = made.gguf(source).read_bytes()
    file = source / "model.safetensors"
    tensors = load_file(file)
    save_file(tensors | {"lm_head.weight": tensors["model.embed_tokens.weight"].clone()}, file, {"format": "pt"})
    assert made.gguf(source).read_bytes() == whole
    save_file(tensors | {"lm_head.weight": tensors["model.embed_tokens.weight"] + 1}, file, {"format": "pt"})
    with pytest.raises(UserError, match=r"to share embeddings and output weights, but its lm_head.weight is not"):
        made.gguf(source)


def test_shards_make_the_same_file(tmp_path: Path) -> None:
    network = made.model("mixtral")
    whole, sharded = (made.folder(tmp_path / name, network) for name in ("whole", "sharded"))
    network.save_pretrained(sharded, max_shard_size="200KB")
    (sharded / "model.safetensors").unlink()
    assert len(set(json.loads((sharded / "model.safetensors.index.json").read_text())["weight_map"].values())) > 2
    assert made.gguf(whole).read_bytes() == made.gguf(sharded).read_bytes()
