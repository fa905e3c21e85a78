"""llama.cpp's own quantiser, for the types that `gguf` only reads."""

import contextlib
import ctypes
import importlib.util
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from model.gguf.quantization import KQUANTS
from stages.errors import UserError

PACKAGE = "llama-cpp-python"
_ERROR = 4  # GGML_LOG_LEVEL_ERROR, which the package does not name


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
        UserError: llama.cpp could not; the message has what it said.
    """
    import llama_cpp

    parameters = llama_cpp.llama_model_quantize_default_params()
    parameters.ftype = int(KQUANTS[kind])
    with _errors() as errors:
        failed = llama_cpp.llama_model_quantize(bytes(source), bytes(file), parameters)
    if failed:
        raise UserError(f"llama.cpp could not quantise to {kind}: {' '.join(errors) or 'it does not say why'}")


@contextlib.contextmanager
def _errors() -> Iterator[list[str]]:
    """Keep what llama.cpp says to itself, but for errors, which are put in the list."""
    import llama_cpp
    from llama_cpp import _logger

    said: list[str] = []

    def listen(level: int, text: bytes, _: Any) -> None:
        if level == _ERROR:
            said.append(text.decode(errors="replace").strip())

    callback = llama_cpp.llama_log_callback(listen)  # must live as long as it is set
    llama_cpp.llama_log_set(callback, ctypes.c_void_p())
    try:
        yield said
    finally:
        llama_cpp.llama_log_set(_logger.llama_log_callback, ctypes.c_void_p())  # as it was
