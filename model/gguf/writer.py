"""Writes a `transformers` folder as one GGUF file, tensor by tensor."""

import contextlib
import logging
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from gguf import GGML_QUANT_VERSION, MODEL_ARCH_NAMES, GGMLQuantizationType, GGUFWriter, size_label
from gguf.quants import quant_shape_to_byte_shape, quantize
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from model.gguf import llama_cpp_quantizer, tokenizer
from model.gguf.architectures import ARCHITECTURES, Architecture, targets, write_facts
from model.gguf.folder import Folder, read
from model.gguf.quantization import TYPES, Quantization, check, tensor_type
from model.gguf.remarks import remarks
from model.gguf.tensors import Target
from stages.errors import UserError

_BLOCK = 2**22
"""Values that are quantised at once."""
_SAME = {
    torch.float32: GGMLQuantizationType.F32,
    torch.float16: GGMLQuantizationType.F16,
    torch.bfloat16: GGMLQuantizationType.BF16,
}
"""Types whose bytes are written as they are."""
logging.getLogger("gguf").setLevel(logging.WARNING)  # it tells of every file and key


@dataclass(frozen=True)
class Identity:
    """What a model is called and where it is from."""

    name: str
    """Its name."""
    license: str | None = None
    """SPDX identifier or expression."""
    source_url: str | None = None
    """Where its source is."""

    def write(self, writer: GGUFWriter) -> None:
        """Write the metadata `general.*`."""
        writer.add_type("model")
        writer.add_name(self.name)
        if self.license is not None:
            writer.add_license(self.license)
        if self.source_url is not None:
            writer.add_source_url(self.source_url)


def write(source: Path, file: Path, kind: str, identity: Identity) -> list[str]:
    """Write a GGUF file, whole or not at all; memory is about one tensor.

    K-quants are made by llama.cpp itself, of a GGUF file in the source's precision beside the result.

    Args:
        source: The folder with config.json, model.safetensors or its shards, and tokenizer.json.
        file: The result; one that is there is replaced.
        kind: A name in `quantization.TYPES` or `quantization.KQUANTS`.
        identity: Name, licence and source for the metadata.

    Returns:
        What is other in llama.cpp than in `transformers`.

    Raises:
        UserError: The type or the architecture is not known, the folder is not whole, or llama.cpp would not run the
            same model; nothing is left of the file then.
    """
    check(kind)
    if kind not in TYPES:
        llama_cpp_quantizer.check_installed(kind)
    if file.is_dir():
        raise UserError(f"'{file}' is a folder; name a file in it")
    folder = read(source, ARCHITECTURES)
    with _whole(file) as partial:
        if kind in TYPES:
            _write(folder, partial, TYPES[kind], identity)
        else:
            with _whole(file.with_name(f"{file.name}.unquantized"), keep=False) as unquantized:
                _write(folder, unquantized, TYPES[folder.dtype()], identity)
                llama_cpp_quantizer.quantize(unquantized, partial, kind)
        return list(remarks(folder, kind))


@contextlib.contextmanager
def _whole(file: Path, keep: bool = True) -> Iterator[Path]:
    """Yield a name beside a file that takes the file's at the end, or is removed."""
    partial = file.with_name(f"{file.name}.partial")
    file.parent.mkdir(parents=True, exist_ok=True)
    try:
        yield partial
        if keep:
            partial.replace(file)
    finally:
        partial.unlink(missing_ok=True)


def _write(folder: Folder, file: Path, quantization: Quantization, identity: Identity) -> None:
    architecture = ARCHITECTURES[folder.architecture]
    writer = GGUFWriter(file, MODEL_ARCH_NAMES[architecture.arch])
    try:
        _write_metadata(writer, folder, architecture, quantization, identity)
        plan = list(_planned(writer, folder, architecture, quantization))
        writer.add_size_label(size_label(*writer.get_total_parameter_count()))
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        _write_tensors(writer, folder, plan)
    finally:
        writer.close()


def _write_metadata(
    writer: GGUFWriter, folder: Folder, architecture: Architecture, quantization: Quantization, identity: Identity
) -> None:
    identity.write(writer)
    writer.add_file_type(quantization.file_type)
    writer.add_quantization_version(GGML_QUANT_VERSION)
    write_facts(writer, folder.config, architecture)
    tokenizer.read(folder.path / "tokenizer.json", folder.config).write(writer)


def _planned(
    writer: GGUFWriter, folder: Folder, architecture: Architecture, quantization: Quantization
) -> Iterator[tuple[Target, GGMLQuantizationType]]:
    """Announce every tensor to the writer and yield it with its type."""
    for target in targets(folder, architecture):
        shape = target.shape(folder.entries)
        kind = tensor_type(target.name, shape, quantization)
        size = math.prod(quant_shape_to_byte_shape(shape, kind))
        writer.add_tensor_info(target.name, shape, np.dtype(np.float32), size, raw_dtype=kind)
        yield target, kind


def _write_tensors(writer: GGUFWriter, folder: Folder, plan: list[tuple[Target, GGMLQuantizationType]]) -> None:
    assert writer.fout is not None
    stream = writer.fout[0]
    writer.write_padding(stream, stream.tell())
    for target, kind in tqdm(plan, desc="gguf", unit="tensor", disable=None):
        writer.write_padding(stream, _write_tensor(stream, folder, target, kind))


def _write_tensor(stream: IO[bytes], folder: Folder, target: Target, kind: GGMLQuantizationType) -> int:
    """Write the values of a tensor and return how many bytes these are."""
    begin = stream.tell()
    for name, piece in target.pieces(folder.tensor):
        for rows in piece.reshape(-1, piece.shape[-1]).split(max(1, _BLOCK // piece.shape[-1])):
            stream.write(_quantized(name, rows, kind).data)
    return stream.tell() - begin


def _quantized(name: str, rows: Tensor, kind: GGMLQuantizationType) -> NDArray[Any]:
    """Return the bytes of some rows; `name` says in errors where they are from."""
    if not rows.isfinite().all():
        raise UserError(f"{name} has values that are NaN or infinite; choose an earlier checkpoint")
    if _SAME.get(rows.dtype) == kind:
        return rows.contiguous().view(torch.uint8).numpy()
    values = rows.float().numpy()
    with np.errstate(over="ignore"):
        data = np.ascontiguousarray(quantize(values, kind))
    if kind == GGMLQuantizationType.F16 and not np.isfinite(data).all():
        raise UserError(f"{name} reaches {abs(values).max():g}, more than F16 holds; choose type BF16")
    return data
