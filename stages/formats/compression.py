"""Decompressed streams with limits: what is cut short or swells absurdly is an error, found while streaming.

Arrow's decompression is taken for all three: it refuses a stream that ends early, which `zstandard` reads as if it
were whole, goes on across members and frames, and asks for no more than is read.
"""

import io
from typing import BinaryIO

import pyarrow as pa

from stages.errors import UserError
from stages.formats.row import Options, damaged

CODECS = {".gz": "gzip", ".zst": "zstd", ".bz2": "bz2"}
_GRACE = 1 << 20  # bytes from which on the ratio is looked at: less does no harm


class _Counted(io.RawIOBase):
    """A stream that knows how many bytes were read from it."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream, self.count = stream, 0

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1, /) -> bytes:
        data = self._stream.read(size)
        self.count += len(data)
        return data


class Decompressed(io.RawIOBase):
    """The decompressed bytes of a stream.

    Raises:
        UserError: On reading, if the stream is damaged, or passes `max_file_bytes` or `max_ratio`.
    """

    def __init__(self, stream: BinaryIO, name: str, options: Options) -> None:
        """Read from `stream`; the ending of `name` says how it is compressed."""
        codec = next(codec for suffix, codec in CODECS.items() if name.endswith(suffix))
        self._name, self._limits, self._count = name, options.settings, 0
        self._compressed = _Counted(stream)
        self._inner = pa.CompressedInputStream(pa.PythonFile(self._compressed, mode="r"), codec)

    def readable(self) -> bool:
        """It is."""
        return True

    def readinto(self, buffer: "bytearray | memoryview", /) -> int:  # type: ignore[override]
        """Read decompressed bytes."""
        try:
            data = self._inner.read(len(buffer))
        except (OSError, pa.ArrowException) as error:
            raise damaged(self._name, error) from None
        self._count += len(data)
        self._check()
        buffer[: len(data)] = data
        return len(data)

    def _check(self) -> None:
        limits, ratio = self._limits, self._count / max(self._compressed.count, 1)
        if self._count > limits.max_file_bytes:
            fault = f"has more than max_file_bytes = {limits.max_file_bytes} bytes when decompressed"
        elif self._count > _GRACE and ratio > limits.max_ratio:
            fault = f"has over {ratio:.0f} decompressed bytes for a compressed one, more than {limits.max_ratio:g}"
        else:
            return
        raise UserError(f"'{self._name}' {fault}. Raise the limit in `formats`, or add it to the source's `exclude`.")
