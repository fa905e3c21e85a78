"""Parts of a checkpoint, read without the processes that wrote it."""

import os
import pickle
import shutil
from pathlib import Path

import pytest
import torch
from megatron.core.dist_checkpointing.mapping import ShardedTensor
from torch.distributed.checkpoint.filesystem import FileSystemReader
from torch.distributed.checkpoint.metadata import TensorStorageMetadata

from model.checkpoints import checkpoint
from model.checkpoints.reader import Reader
from model.convert import unsplit
from stages.errors import UserError

WHOLE = torch.arange(2 * 6 * 4, dtype=torch.bfloat16).view(2, 6, 4)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of two layers, whose matrices three ranks share."""
    path = tmp_path_factory.mktemp("reader") / "checkpoint"
    state = {}
    for layer in range(2):
        for rank, part in enumerate(WHOLE[layer].chunk(3)):
            offsets = ((0, layer, 2), (1, rank, 3))
            state[f"{layer}.{rank}"] = ShardedTensor.from_rank_offsets("w", part, *offsets, prepend_axis_num=1)
    with unsplit.process(num_threads=1):
        checkpoint.save(path, state)
    return path


@pytest.mark.parametrize(
    ("offset", "shape"),
    [
        ((0, 0, 0), (1, 2, 4)),
        ((0, 0, 0), (1, 6, 4)),
        ((0, 1, 1), (1, 4, 2)),
        ((0, 0, 0), (2, 4, 4)),
        ((1, 3, 3), (1, 1, 1)),
    ],
    ids=["as written", "of all ranks", "across ranks", "of both layers", "an element"],
)
def test_any_part_is_read_whatever_ranks_wrote_it(
    written: Path, offset: tuple[int, ...], shape: tuple[int, ...]
) -> None:
    found = Reader(written).read("w", offset, shape)
    assert found.dtype == torch.bfloat16
    assert torch.equal(found, WHOLE[tuple(slice(at, at + size) for at, size in zip(offset, shape, strict=True))])


def test_every_tensor_is_listed_with_its_whole_shape(written: Path) -> None:
    assert {key: (stored.shape, stored.dtype) for key, stored in Reader(written).tensors.items()} == {
        "w": ((2, 6, 4), torch.bfloat16)
    }


def test_what_no_rank_wrote_is_named(written: Path, tmp_path: Path) -> None:
    damaged = Path(shutil.copytree(written, tmp_path / "damaged"))
    index = FileSystemReader(damaged).read_metadata()
    entry = index.state_dict_metadata["w"]
    assert isinstance(entry, TensorStorageMetadata)
    entry.chunks = [chunk for chunk in entry.chunks if tuple(chunk.offsets) != (1, 4, 0)]
    (damaged / ".metadata").write_bytes(pickle.dumps(index))
    with pytest.raises(UserError, match=r"lacks 8 elements of w from \(1, 0, 0\) on"):
        Reader(damaged).read("w", (1, 0, 0), (1, 6, 4))


def test_a_file_that_was_cut_off_is_named(written: Path, tmp_path: Path) -> None:
    damaged = Path(shutil.copytree(written, tmp_path / "damaged"))
    (file,) = damaged.glob("*.distcp")
    os.truncate(file, file.stat().st_size - 600)
    with pytest.raises(UserError, match=r"distcp' is missing or damaged at w \("):
        Reader(damaged).read("w", (0, 0, 0), (2, 6, 4))


def test_a_folder_without_a_checkpoint_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"is no whole checkpoint: its \.metadata cannot be read"):
        Reader(tmp_path)
