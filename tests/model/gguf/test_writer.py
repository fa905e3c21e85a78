import subprocess
import sys
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gguf import GGUFReader
from gguf.quants import dequantize
from transformers import PreTrainedModel

from model.gguf import writer
from model.gguf.quantization import TYPES
from stages.errors import UserError
from tests.model.gguf import made

IDENTITY = writer.Identity("tiny", "Apache-2.0", "https://example.org/tiny")


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made.folder(tmp_path_factory.mktemp("exported") / "model", made.model("llama"))


def test_metadata_says_what_and_whose_it_is(source: Path, tmp_path: Path) -> None:
    writer.write(source, tmp_path / "tiny.gguf", "Q8_0", IDENTITY)
    with made.llama(tmp_path / "tiny.gguf", vocab_only=True) as opened:
        assert opened.metadata["general.name"] == "tiny"
        assert opened.metadata["general.license"] == "Apache-2.0"
        assert opened.metadata["general.source.url"] == "https://example.org/tiny"
        assert opened.metadata["general.architecture"] == "llama"
        assert opened.metadata["llama.context_length"] == str(made.CONTEXT)
        assert "tokenizer.chat_template" not in opened.metadata


def test_the_same_folder_makes_the_same_bytes(source: Path, tmp_path: Path) -> None:
    for name in ("first", "second"):
        writer.write(source, tmp_path / name, "Q4_0", IDENTITY)
    assert (tmp_path / "first").read_bytes() == (tmp_path / "second").read_bytes()


@pytest.mark.parametrize("kind", TYPES)
def test_matrices_have_the_type_and_vectors_stay_exact(kind: str, source: Path, tmp_path: Path) -> None:
    writer.write(source, tmp_path / "tiny.gguf", kind, IDENTITY)
    tensors = {tensor.name: tensor for tensor in GGUFReader(tmp_path / "tiny.gguf").tensors}
    assert tensors["blk.0.ffn_up.weight"].tensor_type.name == kind
    assert tensors["token_embd.weight"].tensor_type.name == ("Q8_0" if kind == "Q4_0" else kind)
    assert tensors["blk.0.attn_norm.weight"].tensor_type.name == "F32"


@pytest.mark.parametrize(
    ("kind", "limit"), [("F32", 0), ("BF16", 2**-8), ("F16", 2**-11), ("Q8_0", 0.01), ("Q4_0", 0.15)]
)
def test_values_are_as_close_as_the_type_can_be(kind: str, limit: float, source: Path, tmp_path: Path) -> None:
    """As a part of the largest value of the tensor."""
    network: Any = made.model("llama")
    weight = network.model.layers[0].mlp.up_proj.weight.detach().numpy()
    writer.write(source, tmp_path / "tiny.gguf", kind, IDENTITY)
    tensors = {tensor.name: tensor for tensor in GGUFReader(tmp_path / "tiny.gguf").tensors}
    tensor = tensors["blk.0.ffn_up.weight"]
    assert np.abs(dequantize(tensor.data, tensor.tensor_type) - weight).max() <= limit * np.abs(weight).max()


def test_the_router_stays_exact(tmp_path: Path) -> None:
    source = made.folder(tmp_path / "model", made.model("mixtral"))
    tensors = {tensor.name: tensor for tensor in GGUFReader(made.gguf(source, "Q4_0")).tensors}
    assert tensors["blk.0.ffn_gate_inp.weight"].tensor_type.name == "F32"
    assert tensors["blk.0.ffn_up_exps.weight"].tensor_type.name == "Q4_0"


def test_rows_that_no_block_fills_are_in_half_precision(tmp_path: Path) -> None:
    source = made.folder(tmp_path / "model", made.model("llama", intermediate_size=80))
    tensors = {tensor.name: tensor for tensor in GGUFReader(made.gguf(source, "Q8_0")).tensors}
    assert tensors["blk.0.ffn_down.weight"].tensor_type.name == "F16"
    assert tensors["blk.0.ffn_up.weight"].tensor_type.name == "Q8_0"


def test_k_quants_of_rows_that_no_block_fills_say_so_in_one_line(
    source: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    remarks = writer.write(source, tmp_path / "tiny.gguf", "Q4_K_M", IDENTITY)
    assert remarks == ["30 of 30 matrices have rows that blocks of 256 do not fill: they are in a larger type"]
    assert "falling back" not in capfd.readouterr().err


def test_values_beyond_half_precision_are_refused(tmp_path: Path) -> None:
    network: Any = made.model("llama")
    network.model.layers[0].mlp.up_proj.weight.data[0, 0] = 1e5
    source = made.folder(tmp_path / "model", network)
    with pytest.raises(
        UserError, match=r"model.layers.0.mlp.up_proj.weight reaches 100000, more than F16 holds; choose type BF16"
    ):
        made.gguf(source, "F16")
    assert made.gguf(source, "BF16").exists()


def test_an_unknown_type_is_refused_with_the_known(source: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"Q7_X is none of F32, F16, BF16, Q8_0, Q4_0, Q2_K.*Q6_K"):
        writer.write(source, tmp_path / "tiny.gguf", "Q7_X", IDENTITY)


def test_a_failure_leaves_an_earlier_file_as_it_is(source: Path, tmp_path: Path) -> None:
    file = tmp_path / "tiny.gguf"
    file.write_bytes(b"earlier")
    with pytest.raises(UserError):
        writer.write(source / "elsewhere", file, "F32", IDENTITY)
    assert {left.name: left.read_bytes() for left in tmp_path.iterdir()} == {"tiny.gguf": b"earlier"}


def test_memory_is_a_few_tensors_however_many_there_are(tmp_path: Path) -> None:
    """NumPy's share, which holds what is quantised and written; the largest tensor is 256 KB."""

    def peak(layers: int) -> int:
        source = made.folder(tmp_path / str(layers), made.model("llama", num_hidden_layers=layers))
        tracemalloc.start()
        made.gguf(source, "Q8_0")
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return peak

    peak(1)  # imports
    assert peak(16) < peak(2) + 1_000_000


@pytest.mark.e2e
def test_the_command_writes_both_files(source: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "model.gguf", str(source.parent), str(tmp_path / "tiny.gguf"), "--type", "Q8_0"]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    assert sorted(file.name for file in tmp_path.iterdir()) == ["Modelfile", "tiny.gguf"]
    assert str(tmp_path / "tiny.gguf") in ended.stdout


def half() -> PreTrainedModel:
    network: Any = made.model("llama")
    made_half: PreTrainedModel = network.to(torch.bfloat16)
    return made_half


def test_a_bfloat16_model_keeps_its_values(tmp_path: Path) -> None:
    source = made.folder(tmp_path / "model", half())
    tensors = {tensor.name: tensor for tensor in GGUFReader(made.gguf(source, "BF16")).tensors}
    weight = half().get_parameter("model.layers.0.mlp.up_proj.weight")
    stored = dequantize(tensors["blk.0.ffn_up.weight"].data, tensors["blk.0.ffn_up.weight"].tensor_type)
    assert np.array_equal(stored, weight.detach().float().numpy())
