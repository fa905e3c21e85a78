"""General-purpose compressors as baselines: a model that knows its text should need fewer bits than they do."""

import lzma
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import zstandard


def xz_bytes(data: bytes) -> int:
    """Return the size of the file that `xz -9e` makes of `data` (its default check, CRC64)."""
    return len(lzma.compress(data, preset=9 | lzma.PRESET_EXTREME))


def zstd_bytes(data: bytes) -> int:
    """Return the size of the file that `zstd -19` makes of `data` (its default checksum included)."""
    return len(zstandard.ZstdCompressor(level=19, write_checksum=True).compress(data))


COMPRESSORS: dict[str, Callable[[bytes], int]] = {"xz": xz_bytes, "zstd": zstd_bytes}
"""Name -> compressed size in bytes. Sizes depend on the libraries' versions, not on threads."""


def compressed_sizes(texts: Sequence[bytes], threads: int) -> list[dict[str, int]]:
    """Return what each text takes alone, by compressor; the compressors release the interpreter's lock."""
    with ThreadPoolExecutor(threads) as pool:
        columns = {name: list(pool.map(size, texts)) for name, size in COMPRESSORS.items()}
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
