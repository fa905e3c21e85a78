"""The held-out fractions, and which text is in which."""

import hashlib
from typing import Literal

from pydantic import Field, model_validator

from stages.settings import Settings

SplitName = Literal["train", "validation", "test"]
SPLITS: tuple[SplitName, ...] = ("train", "validation", "test")


class Split(Settings):
    """Which fractions of the texts are held out."""

    validation: float = Field(gt=0, lt=1)
    """Fraction for validation while training."""
    test: float = Field(gt=0, lt=1)
    """Fraction for evaluation."""
    seed: int = Field(ge=0)
    """Another seed, another split."""

    @model_validator(mode="after")
    def _leaves_train(self) -> "Split":
        if self.validation + self.test >= 1:
            raise ValueError("validation + test leaves nothing to train on; together they are less than 1")
        return self

    def of(self, digest: str) -> SplitName:
        """Return the split of a cluster's texts, a function of its name, the smallest hex SHA-256, and the seed alone.

        So equal and nearly equal texts are always together, and a text by itself never moves between splits when
        others come or go.
        """
        drawn = hashlib.sha256(f"{self.seed}:{digest}".encode()).digest()
        position = int.from_bytes(drawn[:8], "big") / 2**64
        if position < self.test:
            return "test"
        return "validation" if position < self.test + self.validation else "train"
