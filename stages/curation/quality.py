"""Quality by a classifier that is trained from labelled examples, whenever their digest or a parameter changes."""

import json
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from stages.corpus.sources import Sha256
from stages.curation.step import Step, Verdict
from stages.errors import UserError
from stages.settings import Settings

if TYPE_CHECKING:  # scikit-learn and numpy take too long to import for a check of params.yaml
    from stages.corpus.documents import Document
    from stages.curation.classifier import Classifier, Example, Quality


class LearnedQuality(Settings):
    """Score texts by how much they are like good examples, and drop those with a low score.

    The score is a probability if good texts are as frequent in the documents as in the examples.
    """

    step: Literal["quality"]
    """Picks this step."""
    examples: Path = Field(strict=False)
    """JSON lines (`.jsonl`) or Parquet (`.parquet`) with the columns `text` and `label`."""
    sha256: Sha256
    """The file's digest."""
    good: tuple[str, ...] = Field(min_length=1)
    """The labels of good texts; all others are not."""
    min_score: float | None = Field(default=None, ge=0, le=1)
    """A text with a lower score is dropped; null drops none, and the score is only noted."""
    bits: int = Field(default=20, ge=8, le=26)
    """Words and bigrams share 2^bits weights."""
    regularization: float = Field(default=1e-5, gt=0)
    """Weight of the squared weights by the mean loss."""
    held_out: float = Field(default=0.1, gt=0, lt=1)
    """Fraction of the examples that is not trained on and tells how good the classifier is."""

    def build(self) -> Step:
        """Return the step, with the classifier trained.

        Raises:
            UserError: The examples are missing, are not the pinned ones, or are not as they should be.
        """
        classifier, _ = self.classifier()

        def step(documents: Sequence["Document"]) -> list[Verdict]:
            return [self._judge(score) for score in classifier.scores([each.text for each in documents]).tolist()]

        return step

    def classifier(self) -> "tuple[Classifier, Quality]":
        """Return the classifier, which is trained once a process, and what held-out examples say of it.

        Raises:
            UserError: As `build`.
        """
        return _train(self.model_copy(update={"min_score": None}))

    def training(self) -> dict[str, Any]:
        """Return what decides the classifier; it names no file, whose digest is enough."""
        return self.model_dump(mode="json", exclude={"step", "examples", "min_score"})

    def _judge(self, score: float) -> Verdict:
        low = self.min_score is not None and score < self.min_score
        return Verdict("low_quality" if low else None, {"quality": score})


@cache
def _train(settings: LearnedQuality) -> "tuple[Classifier, Quality]":
    from stages.curation import classifier

    examples = _read(settings)
    taken, held = classifier.split(examples, settings.held_out)
    for part, name in ((taken, "to train on"), (held, "held out")):
        if len({example.good for example in part}) < 2:
            raise UserError(
                f"'{settings.examples}': of {len(examples)} examples, those {name} are not of both kinds, good "
                f"({', '.join(settings.good)}) and not; add examples, or correct `good` or `held_out`"
            )
    trained = classifier.train(taken, bits=settings.bits, regularization=settings.regularization)
    return trained, classifier.measure(trained, held)


def _read(settings: LearnedQuality) -> "list[Example]":
    from stages.curation.classifier import Example
    from stages.files import sha256_file

    path = settings.examples
    if not path.is_file():
        raise UserError(f"quality.examples: '{path}' is no file; put the labelled examples there")
    if (found := sha256_file(path)) != settings.sha256:
        raise UserError(f"quality.examples: '{path}' has sha256 {found}, not {settings.sha256}; correct either")
    examples = []
    for number, row in enumerate(_rows(path)):
        text, label = (row.get(name) if isinstance(row, dict) else None for name in ("text", "label"))
        if not isinstance(text, str) or not isinstance(label, str):
            raise UserError(f"quality.examples: row {number} of '{path}' has no strings `text` and `label`")
        examples.append(Example(text, label in settings.good))
    return examples


def _rows(path: Path) -> Iterator[Any]:
    if path.suffix == ".parquet":
        import pyarrow.parquet as pq

        for batch in pq.ParquetFile(path).iter_batches():
            yield from batch.to_pylist()
    elif path.suffix == ".jsonl":
        for number, line in enumerate(path.read_bytes().splitlines()):
            try:
                yield json.loads(line)
            except ValueError as error:
                raise UserError(f"quality.examples: row {number} of '{path}' is not JSON: {error}") from None
    else:
        raise UserError(f"quality.examples: '{path}' is neither .jsonl nor .parquet")
