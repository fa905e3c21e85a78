"""Multiple-choice continuation: which of four passages goes on with this text? Built from held-out documents.

A question shows some lines of a document. The gold choice is its true next lines; the three distractors are
the gold choices of questions about other documents of the domain, the nearest in length. So a choice says
nothing without its context: every passage is gold once and a distractor elsewhere, and chance is 1/4.
"""

from dataclasses import dataclass
from itertools import chain, islice, zip_longest

from pydantic import Field

from evals.documents import Document, digest
from stages.errors import UserError
from stages.settings import Settings

CHOICES = 4
CHANCE = 1 / CHOICES


class ContinuationSettings(Settings):
    """Size and shape of the questions of a domain."""

    questions: int = Field(ge=CHOICES)
    """Questions a domain; taken in turns from its documents, so that each gives as few as possible."""

    lines: int = Field(gt=0)
    """Lines in a choice, none of them blank."""

    choice_bytes: int = Field(ge=2)
    """Most bytes in a choice; the least is half of it, so that choices say enough and are of like length."""

    context_bytes: int = Field(gt=0)
    """Most bytes of context: as many whole lines before the choice as fit."""


@dataclass(frozen=True)
class Passage:
    """Some lines of a document (`context`) and those that follow (`continuation`), without the newline between."""

    id: str
    document: str
    context: str
    continuation: str


@dataclass(frozen=True)
class Question:
    """A passage's context with four choices, of which `gold` is the index of the true one."""

    id: str
    document: str
    context: str
    choices: list[str]
    gold: int


@dataclass(frozen=True)
class HeldOut:
    """What is asked of the model, by domain: documents to score whole, and questions about them."""

    documents: dict[str, list[Document]]
    questions: dict[str, list[Question]]


def ask(documents: list[Document], settings: ContinuationSettings, seed: int) -> list[Question]:
    """Return the questions about one domain's documents, decided by the seed and the documents' content.

    Raises:
        UserError: The documents have too few passages, or too few documents have any.
    """
    rounds = zip_longest(*(_passages(document, settings, seed) for document in documents))
    found = {passage.continuation: passage for passage in reversed([p for p in chain.from_iterable(rounds) if p])}
    passages = list(islice(reversed(found.values()), settings.questions))
    sources = len({passage.document for passage in passages})
    if len(passages) < settings.questions or sources < CHOICES:
        raise UserError(
            f"evaluate.continuation.questions = {settings.questions}: the {len(documents)} test documents of domain "
            f"'{documents[0].domain}' give {len(passages)} from {sources} documents (at least {CHOICES} are needed). "
            "Ask fewer, raise evaluate.documents or curate.split.test, or widen evaluate.continuation.choice_bytes."
        )
    return [_question(passage, passages, seed) for passage in passages]


def _passages(document: Document, settings: ContinuationSettings, seed: int) -> list[Passage]:
    """Return the document's usable passages in the order of their digests; no two continuations overlap."""
    lines = document.text.split("\n")
    starts = range(settings.lines, len(lines) - settings.lines + 1, settings.lines)
    found = [_passage(document, lines, start, settings) for start in starts]
    return sorted((passage for passage in found if passage), key=lambda passage: digest(seed, passage.id))


def _passage(document: Document, lines: list[str], start: int, settings: ContinuationSettings) -> Passage | None:
    chosen = lines[start : start + settings.lines]
    continuation = "\n".join(chosen)
    size = len(continuation.encode())
    if not settings.choice_bytes / 2 <= size <= settings.choice_bytes or not all(map(str.strip, chosen)):
        return None
    context = _context(lines[:start], settings.context_bytes)
    if not context.strip():
        return None
    return Passage(f"{document.id}:{start}", document.id, context, continuation)


def _context(before: list[str], limit: int) -> str:
    """Return the last whole lines of `before` that fit in `limit` bytes with the newlines between them."""
    size, first = -1, len(before)
    while first and size + 1 + len(before[first - 1].encode()) <= limit:
        first -= 1
        size += 1 + len(before[first].encode())
    return "\n".join(before[first:])


def _question(passage: Passage, passages: list[Passage], seed: int) -> Question:
    four = [passage.continuation, *_distractors(passage, passages, seed)]
    choices = sorted(four, key=lambda choice: digest(seed, passage.id, choice))
    return Question(passage.id, passage.document, passage.context, choices, choices.index(passage.continuation))


def _distractors(passage: Passage, passages: list[Passage], seed: int) -> list[str]:
    """Return the continuations nearest in length, each from another document; digests decide between equals."""

    def distance(other: Passage) -> tuple[int, str]:
        difference = abs(len(other.continuation) - len(passage.continuation))
        return difference, digest(seed, passage.id, other.id)

    nearest: dict[str, str] = {}
    for other in sorted(passages, key=distance):
        if other.document != passage.document:
            nearest.setdefault(other.document, other.continuation)
    return list(islice(nearest.values(), CHOICES - 1))
