"""The chain of steps that a domain's documents go through, and the trail that each document leaves."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Annotated, NamedTuple

from pydantic import Field

from stages.curation import (
    blocklist,
    boilerplate,
    c4,
    contamination,
    fineweb,
    gopher_quality,
    gopher_repetition,
    language,
    opt_out,
    pii,
    quality,
    rules,
    toxicity,
    unicode,
)
from stages.curation.step import Step, Verdict
from stages.settings import Settings

if TYPE_CHECKING:  # its Parquet library takes too long to import for a check of params.yaml
    from stages.corpus.documents import Document

# A new step is a settings class in a file of its own and a line here.
AnyStep = Annotated[
    rules.Length
    | rules.LineLength
    | rules.Alphanumeric
    | rules.Generated
    | rules.Unprintable
    | rules.RepeatedLines
    | rules.WordLength
    | rules.StopWords
    | rules.EncodedData
    | blocklist.Blocklist
    | boilerplate.Boilerplate
    | c4.C4
    | contamination.Contamination
    | fineweb.FineWeb
    | gopher_quality.GopherQuality
    | gopher_repetition.GopherRepetition
    | language.Language
    | opt_out.OptOut
    | pii.Pii
    | quality.LearnedQuality
    | toxicity.Toxicity
    | unicode.Unicode,
    Field(discriminator="step"),
]


class Event(NamedTuple):
    """What one step did to one document; steps that neither measured nor changed anything leave none.

    Attributes:
        step: The step's name.
        reason: Why it dropped the document, or None.
        numbers: What it measured, by name.
        edited: It changed the text.
        tags: Facts that it found.
        bytes: By how many UTF-8 bytes it made the text longer; below 0 if it is shorter now.
    """

    step: str
    reason: str | None
    numbers: Mapping[str, float]
    edited: bool
    tags: tuple[str, ...]
    bytes: int = 0


@dataclass
class Outcome:
    """What became of one document.

    Attributes:
        document: As the last step left it: an edit changes `text` and `sha256`, never `id`.
        trail: What the steps did to it, in order; the last event has the reason if it was dropped.
    """

    document: "Document"
    trail: list[Event] = field(default_factory=list)

    @property
    def reason(self) -> str | None:
        """Why it was dropped, or None."""
        return self.trail[-1].reason if self.trail else None


class Chain(Settings):
    """Steps in the order in which they run."""

    steps: tuple[AnyStep, ...]
    """What a step drops, the later ones do not see; what it edits, they see edited."""
    drop_tags: tuple[str, ...] = ()
    """The step that gives a document one of these tags drops it, for the reason `tag:<tag>`."""

    def build(self) -> "BuiltChain":
        """Return the chain with its steps built, ready to run."""
        return BuiltChain([(settings.step, settings.build()) for settings in self.steps], self.drop_tags)


class BuiltChain:
    """Steps that are ready to run; a pure function from documents to outcomes, like the steps themselves."""

    def __init__(self, steps: Sequence[tuple[str, Step]], drop_tags: Sequence[str] = ()) -> None:
        """Take the steps with their names, in order, and the tags that drop."""
        self._steps, self._drop_tags = steps, frozenset(drop_tags)

    def __call__(self, documents: Sequence["Document"]) -> list[Outcome]:
        """Return the outcome of each document, in their order; a batch gives what its parts would."""
        outcomes = [Outcome(document) for document in documents]
        for name, step in self._steps:
            alive = [outcome for outcome in outcomes if outcome.reason is None]
            verdicts = step([outcome.document for outcome in alive])
            for outcome, verdict in zip(alive, verdicts, strict=True):
                self._note(outcome, name, verdict)
        return outcomes

    def _note(self, outcome: Outcome, step: str, verdict: Verdict) -> None:
        before = outcome.document
        edited = verdict.text is not None and verdict.text != before.text
        if edited:
            outcome.document = _with_text(before, verdict.text or "")
        reason = verdict.reason or next((f"tag:{tag}" for tag in verdict.tags if tag in self._drop_tags), None)
        if edited or reason or verdict.numbers or verdict.tags:
            longer = _longer(before, outcome.document) if edited else 0
            outcome.trail.append(Event(step, reason, verdict.numbers, edited, verdict.tags, longer))


def _with_text(document: "Document", text: str) -> "Document":
    from stages.corpus.documents import text_digest

    return replace(document, text=text, sha256=text_digest(text))


def _longer(before: "Document", after: "Document") -> int:
    from stages.corpus.documents import size

    return size(after) - size(before)
