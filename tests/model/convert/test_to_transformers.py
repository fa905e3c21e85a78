"""There and back, for every family: the files of `transformers` are those that it would have written itself."""

import math
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from model.checkpoints import checkpoint
from model.convert import described, unsplit
from model.convert.export import load
from model.convert.from_transformers import Import
from model.convert.tensor_files import Spec
from model.convert.tensors_of_folder import INDEX
from model.convert.to_transformers import Export, in_files
from stages.files import read_json
from tests.model.families import table

SHARD_SIZE = 60_000


@pytest.fixture(scope="module", autouse=True)
def one_process() -> Iterator[None]:
    with unsplit.process(num_threads=1, seed=1):
        yield


def there_and_back(folder: Path, dtype: torch.dtype | None, shard_size: int) -> tuple[Export, described.Described]:
    """Convert `theirs` to `checkpoint`, and that to `again`."""
    source = described.of_folder(folder / "theirs")
    weights = Import(folder / "theirs", source.model, source.vocab_size, None)
    weights.write(folder / "checkpoint", source.documents())
    back = described.of_checkpoint(folder / "checkpoint")
    assert (back.model, back.vocab_size, back.config) == (source.model, source.vocab_size, source.config)
    exported = Export(folder / "checkpoint", back.model, back.vocab_size, dtype, shard_size)
    back.write(exported, folder / "again")
    return exported, back


@pytest.mark.parametrize("row", table.ROWS)
def test_a_folder_that_is_imported_and_exported_is_the_same_folder(row: str, tmp_path: Path) -> None:
    table.transformers_model(table.settings(row), torch.bfloat16).save_pretrained(tmp_path / "theirs")
    _, back = there_and_back(tmp_path, None, 10**9)
    names = {file.name for file in (tmp_path / "theirs").iterdir()}
    assert names == {"config.json", "generation_config.json", "model.safetensors"}
    assert {name: (tmp_path / "again" / name).read_bytes() for name in names} == {
        name: (tmp_path / "theirs" / name).read_bytes() for name in names
    }
    load(tmp_path / "again", back)  # without a tensor missing or left over
    assert checkpoint.verify(tmp_path / "checkpoint") == []


def test_files_have_the_stated_size_and_an_index_as_save_pretrained_writes_it(tmp_path: Path) -> None:
    network = table.transformers_model(table.settings("mixtral"))
    network.save_pretrained(tmp_path / "theirs")
    network.save_pretrained(tmp_path / "several", max_shard_size=SHARD_SIZE)
    exported, back = there_and_back(tmp_path, None, SHARD_SIZE)
    ours, theirs = (read_json(tmp_path / name / INDEX) for name in ("again", "several"))
    assert ours["metadata"] == theirs["metadata"]
    assert ours["weight_map"].keys() == theirs["weight_map"].keys()
    assert set(ours["weight_map"].values()) == set(exported.files)
    assert len(exported.files) > 3
    found: dict[str, torch.Tensor] = {}
    for file, names in exported.files.items():
        tensors = load_file(tmp_path / "again" / file)
        assert tensors.keys() == set(names)
        assert sum(tensor.nbytes for tensor in tensors.values()) <= SHARD_SIZE
        found |= tensors
    whole = load_file(tmp_path / "theirs" / "model.safetensors")
    assert all(torch.equal(found[name], tensor) for name, tensor in whole.items())
    load(tmp_path / "again", back)


def test_a_tensor_above_the_size_has_a_file_of_its_own_and_none_is_empty() -> None:
    sizes = {"a": 6, "b": 6, "c": 2, "d": 30, "e": 2, "f": 2, "g": 8}
    tensors = {name: Spec(torch.bfloat16, (size // 2,)) for name, size in sizes.items()}
    files = list(in_files(tensors, 10).values())
    assert files == [["a"], ["b", "c"], ["d"], ["e", "f"], ["g"]]
    assert list(in_files(tensors, 100)) == ["model.safetensors"]
    assert list(in_files(tensors, 45)) == ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]


def test_another_type_rounds_all_but_what_a_family_keeps_in_float32(tmp_path: Path) -> None:
    table.transformers_model(table.settings("deepseek_v3")).save_pretrained(tmp_path / "theirs")
    exported, _ = there_and_back(tmp_path, torch.bfloat16, 10**9)
    before, after = (load_file(tmp_path / name / "model.safetensors") for name in ("theirs", "again"))
    kept = {name for name, tensor in after.items() if tensor.dtype == torch.float32}
    assert kept
    assert all(name.endswith("e_score_correction_bias") for name in kept)
    assert all(torch.equal(after[name], before[name].to(after[name].dtype)) for name in before)
    assert read_json(tmp_path / "again" / "config.json")["dtype"] == "bfloat16"
    assert exported.nbytes == sum(tensor.nbytes for tensor in after.values())
    assert exported.num_parameters == sum(math.prod(tensor.shape) for tensor in before.values())


def test_an_import_has_the_bytes_of_a_model_that_was_filled_and_saved(tmp_path: Path) -> None:
    model = table.settings("mixtral")
    table.transformers_model(model).save_pretrained(tmp_path)
    weights = Import(tmp_path, model, table.VOCAB_SIZE, torch.float32)
    decoder = unsplit.build(model, table.VOCAB_SIZE)
    weights.fill(decoder)
    unsplit.save(tmp_path / "filled", decoder)
    done: list[int] = []
    weights.write(tmp_path / "streamed", {}, done.append)
    assert sum(done) == weights.nbytes == weights.num_parameters * 4
    names = [file.name for file in (tmp_path / "filled").iterdir()]
    for name in names:
        assert (tmp_path / "streamed" / name).read_bytes() == (tmp_path / "filled" / name).read_bytes(), name
