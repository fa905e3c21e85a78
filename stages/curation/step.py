"""The seam between curation and its steps: settings that build a pure function from documents to verdicts.

A step is a settings class in a file of its own, with `step: Literal["<name>"]` and documented thresholds, whose
`build` imports what is slow to import; a line in `stages.curation.chain` makes it known.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple, Protocol

if TYPE_CHECKING:  # its Parquet library takes too long to import for a check of params.yaml
    from stages.corpus.documents import Document


class Verdict(NamedTuple):
    """What a step says of one document.

    Attributes:
        reason: Why it is dropped, in snake case; None keeps it.
        numbers: What was measured that decided, by name.
        text: The edited text; None if it stays as it is.
        tags: Facts that other steps, or policies, may use.
    """

    reason: str | None = None
    numbers: Mapping[str, float] = {}
    text: str | None = None
    tags: tuple[str, ...] = ()


class Step(Protocol):
    """A pure function of the documents and its settings: one verdict a document, in their order."""

    def __call__(self, documents: Sequence["Document"], /) -> list[Verdict]:
        """Return the verdicts."""
        ...


KEEP = Verdict()


def each_text(judge: Callable[[str], Verdict]) -> Step:
    """Return the step that puts each document's text by itself to `judge`."""

    def step(documents: Sequence["Document"]) -> list[Verdict]:
        return [judge(document.text) for document in documents]

    return step
