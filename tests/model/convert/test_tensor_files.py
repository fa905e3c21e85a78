"""Safetensors files, held against the package of that name."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from model.convert import tensor_files
from model.convert.tensor_files import Spec, Writer
from stages.errors import UserError

TENSORS = {
    "model.norm.weight": torch.randn(3).bfloat16(),
    "größe": torch.randn(2, 5),
    "a": torch.randn(4, 3).bfloat16(),
    "half": torch.randn(3, 1).half(),
    "one": torch.tensor(3.0),
    "none": torch.empty(0, 7),
}


def write(file: Path, names: list[str]) -> None:
    writer = Writer(file, {name: Spec(tensor.dtype, tuple(tensor.shape)) for name, tensor in TENSORS.items()})
    for name in names:
        writer.write(name, TENSORS[name])


def test_a_file_has_the_bytes_of_the_package_whatever_order_the_tensors_come_in(tmp_path: Path) -> None:
    save_file(TENSORS, tmp_path / "theirs", {"format": "pt"})
    write(tmp_path / "in order", list(TENSORS))
    write(tmp_path / "backwards", list(TENSORS)[::-1])
    assert (tmp_path / "in order").read_bytes() == (tmp_path / "theirs").read_bytes()
    assert (tmp_path / "backwards").read_bytes() == (tmp_path / "theirs").read_bytes()


def test_a_tensor_that_is_not_contiguous_is_written_in_its_order(tmp_path: Path) -> None:
    turned = torch.randn(3, 4).t()
    writer = Writer(tmp_path / "file", {"w": Spec(torch.float32, (4, 3))})
    writer.write("w", turned)
    (entry,) = tensor_files.entries(tmp_path / "file").values()
    assert torch.equal(tensor_files.read(entry), turned)


def test_what_the_package_wrote_is_read(tmp_path: Path) -> None:
    save_file(TENSORS, tmp_path / "theirs")
    found = tensor_files.entries(tmp_path / "theirs")
    assert found.keys() == TENSORS.keys()
    for name, tensor in TENSORS.items():
        read = tensor_files.read(found[name])
        assert read.dtype == tensor.dtype
        assert torch.equal(read, tensor)
        assert found[name].nbytes == tensor.nbytes


def test_a_file_that_is_missing_or_cut_off_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"nowhere' is missing"):
        tensor_files.entries(tmp_path / "nowhere")
    write(tmp_path / "file", list(TENSORS))
    (entry, *_) = tensor_files.entries(tmp_path / "file").values()
    for length in (0, 7, 20, (tmp_path / "file").stat().st_size - 1):
        with (tmp_path / "file").open("r+b") as stream:
            stream.truncate(length)
            with pytest.raises(UserError, match=r"file' is damaged \(.+\); copy it again"):
                tensor_files.entries(tmp_path / "file")
            stream.truncate(0)
        write(tmp_path / "file", list(TENSORS))
    with (tmp_path / "file").open("r+b") as stream:
        stream.truncate(entry.begin)
    with pytest.raises(UserError, match="was cut off while it was read"):
        tensor_files.read(entry)
