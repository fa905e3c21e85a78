"""A token shard, opened and looked over."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from model import megatron

megatron.install()

from megatron.core.datasets.indexed_dataset import IndexedDataset  # noqa: E402 - after install

from stages.errors import UserError  # noqa: E402


class TokenShard:
    """A Megatron `.bin/.idx` pair, mapped: one sequence a document, its end-of-document token included.

    Args:
        prefix: Path of the pair without the suffixes.

    Raises:
        UserError: A file is missing or cut short, or there is no token in it.
    """

    def __init__(self, prefix: Path) -> None:
        remedy = "run `dvc repro shards`"
        for file in (f"{prefix}.idx", f"{prefix}.bin"):
            if not Path(file).exists():
                raise UserError(f"the token shard '{file}' is missing; {remedy}")
        self._dataset: Any = IndexedDataset(str(prefix))
        self.lengths: NDArray[np.int32] = self._dataset.index.sequence_lengths
        """Tokens of each document; valid as long as this object."""
        if len(self.lengths) == 0 or self.lengths.min() < 1:
            raise UserError(f"the token shard '{prefix}' has no documents, or empty ones; {remedy}")
        size, expected = Path(f"{prefix}.bin").stat().st_size, self._size()
        if size != expected:
            raise UserError(f"the token shard '{prefix}.bin' has {size} bytes, its index tells of {expected}; {remedy}")

    def tokens(self, document: int, start: int = 0, end: int | None = None) -> NDArray[Any]:
        """Return a view of a document's tokens `start` to `end` (exclusive); copy it before the shard is gone."""
        stop = int(self.lengths[document]) if end is None else end
        view: NDArray[Any] = self._dataset.get(document, start, stop - start)
        return view

    def _size(self) -> int:
        index = self._dataset.index
        return int(self.lengths.sum(dtype=np.int64)) * int(index.dtype_size)
