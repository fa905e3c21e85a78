"""Which domain each sample of a phase is from."""

import math

import numpy as np
from numpy.typing import NDArray

from model import megatron

megatron.install()

from megatron.core.datasets import helpers  # noqa: E402 - after install

from model.data.index_cache import Arrays, IndexCache, Spec, blocks  # noqa: E402

Integers = NDArray[np.int64]


class Blend:
    """A sequence of domains in fixed shares: each sample is from the domain that lags its share the most.

    Megatron-Core's `build_blending_indices` (greedy). Sample i depends on the shares alone, so a longer phase begins as
    a shorter one does. A domain is never more than one sample ahead of its share.

    Args:
        shares: By domain, positive.
        samples: Planned length; more can be asked for.
        cache: For the index arrays.
    """

    def __init__(self, shares: dict[str, float], samples: int, cache: IndexCache) -> None:
        self.domains = sorted(shares)
        total = math.fsum(shares.values())
        self._shares = np.array([shares[domain] / total for domain in self.domains])
        self._cache = cache
        self._arrays = self._build(samples)
        self.counts: list[int] = self._arrays["counts"].tolist()
        """Samples of each domain in the planned length."""

    def at(self, first: int, count: int) -> tuple[Integers, Integers]:
        """Return the domains (indices into `domains`) of consecutive samples and their numbers in these, `[n]` each."""
        if len(self.domains) == 1:
            return np.zeros(count, np.int64), np.arange(first, first + count)
        arrays = self._arrays
        length = len(arrays["domain"])
        if first + count > length:
            self._arrays = arrays = self._build(max(2 * length, first + count))
        part = slice(first, first + count)
        return arrays["domain"][part].astype(np.int64), arrays["number"][part]

    def _build(self, samples: int) -> Arrays:
        kinds = len(self.domains)
        if kinds == 1:
            return {"counts": np.array([samples])}
        specs = {
            "domain": Spec(samples, np.int16),
            "number": Spec(samples, np.int64),
            "counts": Spec(kinds, np.int64),
        }

        def fill(arrays: Arrays) -> None:
            domain, number = arrays["domain"], arrays["number"]
            helpers.build_blending_indices(domain, number, self._shares, kinds, samples, False)
            arrays["counts"][:] = sum(np.bincount(domain[block], minlength=kinds) for block in blocks(samples))

        return self._cache.arrays(("blend", samples, *map(float.hex, self._shares.tolist())), specs, fill)
