"""The types of a GGUF file, and which tensor has which."""

from typing import NamedTuple

from gguf import GGML_QUANT_SIZES, QK_K, GGMLQuantizationType, LlamaFileType

from stages.errors import UserError

F32, F16 = GGMLQuantizationType.F32, GGMLQuantizationType.F16


class Quantization(NamedTuple):
    """A type of file."""

    file_type: LlamaFileType
    """What `general.file_type` says."""
    matrices: GGMLQuantizationType
    """Type of the weights that inputs are multiplied with."""
    tables: GGMLQuantizationType
    """Type of the table of embeddings and of the output layer, which every token passes."""


TYPES = {
    "F32": Quantization(LlamaFileType.ALL_F32, F32, F32),
    "F16": Quantization(LlamaFileType.MOSTLY_F16, F16, F16),
    "BF16": Quantization(LlamaFileType.MOSTLY_BF16, GGMLQuantizationType.BF16, GGMLQuantizationType.BF16),
    "Q8_0": Quantization(LlamaFileType.MOSTLY_Q8_0, GGMLQuantizationType.Q8_0, GGMLQuantizationType.Q8_0),
    "Q4_0": Quantization(LlamaFileType.MOSTLY_Q4_0, GGMLQuantizationType.Q4_0, GGMLQuantizationType.Q8_0),
}
"""Types that are written here."""
KQUANTS = {
    name: LlamaFileType[f"MOSTLY_{name}"]
    for name in ("Q2_K", "Q3_K_S", "Q3_K_M", "Q3_K_L", "Q4_K_S", "Q4_K_M", "Q5_K_S", "Q5_K_M", "Q6_K")
}
"""Types that llama.cpp's own quantiser makes."""

_TABLES = ("token_embd.weight", "output.weight")
_EXACT = ("ffn_gate_inp.weight", "rope_freqs.weight")
"""Ends of the names of matrices that stay as they are: which experts are chosen hangs on small differences."""


def check(kind: str) -> None:
    """Refuse what is no type.

    Raises:
        UserError: It is none; the message names those that are.
    """
    if kind not in TYPES.keys() | KQUANTS.keys():
        raise UserError(f"type {kind} is none of {', '.join([*TYPES, *KQUANTS])}")


def block_size(kind: str) -> int:
    """Return how many values of a row a type of file quantises together."""
    return QK_K if kind in KQUANTS else GGML_QUANT_SIZES[TYPES[kind].matrices][0]


def tensor_type(name: str, shape: tuple[int, ...], quantization: Quantization) -> GGMLQuantizationType:
    """Return the type of a tensor: vectors are in F32, and rows that no blocks fill are in F16."""
    if len(shape) == 1 or name.endswith(_EXACT):
        return F32
    wanted = quantization.tables if name in _TABLES else quantization.matrices
    block, _ = GGML_QUANT_SIZES[wanted]
    return wanted if shape[-1] % block == 0 else F16
