"""Tag texts as toxic by a classifier that is trained from labelled examples, the one of `stages.curation.quality`.

It is as good as its examples: trained on HateCheck it tells HateCheck's own held-out sentences apart (AUC 0.99), which
are cut from the same templates, and SemEval 2021's toxic comments not at all (0.47). So there is no default for them.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from stages.corpus.sources import Sha256
from stages.curation.quality import LearnedQuality
from stages.curation.step import Step, Verdict
from stages.settings import Settings

if TYPE_CHECKING:  # scikit-learn and numpy take too long to import for a check of params.yaml
    from stages.corpus.documents import Document

TOXIC = "toxic"


class Toxicity(Settings):
    """Tag a text `toxic` if it is more like toxic examples than others; the number is the score."""

    step: Literal["toxicity"]
    """Picks this step."""
    examples: Path = Field(strict=False)
    """JSON lines (`.jsonl`) or Parquet (`.parquet`) with the columns `text` and `label`."""
    sha256: Sha256
    """The file's digest."""
    toxic: tuple[str, ...] = Field(min_length=1)
    """The labels of toxic texts; all others are not."""
    min_score: float = Field(ge=0, le=1)
    """A text with at least this score has the tag."""
    bits: int = Field(default=20, ge=8, le=26)
    """As of `quality`: words and bigrams share 2^bits weights."""

    def build(self) -> Step:
        """Return the step, with the classifier trained.

        Raises:
            UserError: The examples are missing, are not the pinned ones, or are not as they should be.
        """
        classifier, _ = self.quality().classifier()

        def step(documents: Sequence["Document"]) -> list[Verdict]:
            return [self._judge(score) for score in classifier.scores([each.text for each in documents]).tolist()]

        return step

    def quality(self) -> LearnedQuality:
        """Return the settings of the classifier whose score is the probability that a text is toxic."""
        return LearnedQuality(
            step="quality", examples=self.examples, sha256=self.sha256, good=self.toxic, bits=self.bits
        )

    def _judge(self, score: float) -> Verdict:
        return Verdict(numbers={"toxicity": score}, tags=(TOXIC,) if score >= self.min_score else ())
