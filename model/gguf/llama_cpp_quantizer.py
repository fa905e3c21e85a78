"""llama.cpp's own quantiser, for the types that `gguf` only reads."""

import importlib.util
from pathlib import Path

from model.gguf.quantization import KQUANTS
from stages.errors import UserError

PACKAGE = "llama-cpp-python"


def check_installed(what: str) -> None:
    """Refuse what needs llama.cpp where it is not installed.

    Raises:
        UserError: It is not; the message says how to get it.
    """
    if importlib.util.find_spec("llama_cpp") is None:
        raise UserError(f"{what} needs llama.cpp: `python -m pip install {PACKAGE}` (it is compiled, some minutes)")


def quantize(source: Path, file: Path, kind: str) -> None:
    """Write a GGUF file again as a K-quant.

    Raises:
        UserError: llama.cpp could not; what it said is on stderr.
    """
    import llama_cpp
    from llama_cpp._logger import set_verbose

    set_verbose(False)
    parameters = llama_cpp.llama_model_quantize_default_params()
    parameters.ftype = int(KQUANTS[kind])
    if llama_cpp.llama_model_quantize(bytes(source), bytes(file), parameters) != 0:
        raise UserError(f"llama.cpp could not quantise to {kind}; is the disk full?")
