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


def compressed_size(data: bytes) -> dict[str, int]:
    """Return what `data` takes, as `<compressor>_bytes`."""
    return {f"{name}_bytes": size(data) for name, size in COMPRESSORS.items()}


def compressed_sizes(texts: Sequence[bytes], threads: int) -> list[dict[str, int]]:
    """Return what each text takes alone; in threads, because the compressors release the interpreter's lock."""
    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(compressed_size, texts))
