"""The seam between formats and sources: rows out of a binary stream."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, BinaryIO, NamedTuple

from stages.errors import UserError
from stages.formats.settings import FormatSettings


class Row(NamedTuple):
    """One text of a file, and what the file says of it.

    Attributes:
        place: Where in the file it is, such as `:12` for a line; empty if the file is one text.
        text: The text; it encodes as UTF-8. Empty if `problem` is set.
        encoding: The encoding of the bytes that it was read from, by Python's name.
        columns: What else is known of it, by name.
        problem: Why there is no text, in snake case, such as `redirect`; None if there is one.
    """

    place: str
    text: str
    encoding: str = "utf-8"
    columns: Mapping[str, Any] = {}
    problem: str | None = None


@dataclass(frozen=True)
class Options:
    """What a format may need to know beside the stream.

    Attributes:
        settings: The source's parameters.
        text_column: The column of a table that holds the text.
        columns: Other columns of a table that are read.
    """

    settings: FormatSettings = field(default_factory=FormatSettings)
    text_column: str = "text"
    columns: tuple[str, ...] = ()


Reader = Callable[[BinaryIO, str, Options], Iterator[Row]]


def damaged(name: str, error: object) -> UserError:
    """Return the error of a file whose bytes are not what its name says."""
    reason = " ".join(str(error).split())
    return UserError(f"'{name}' is damaged: {reason}. Fetch it again, or add it to the source's `exclude`.")


def read_whole(stream: BinaryIO, name: str, options: Options) -> bytes:
    """Return all bytes of a file that is one text.

    Raises:
        UserError: There are more than `max_text_bytes`.
    """
    data = stream.read(options.settings.max_text_bytes + 1)
    check_length(len(data), name, options)
    return data


def check_length(length: int, origin: str, options: Options) -> None:
    """Check the bytes of a text, or of what it is made from.

    Raises:
        UserError: There are more than `max_text_bytes`.
    """
    if length > options.settings.max_text_bytes:
        raise UserError(
            f"'{origin}' has more than max_text_bytes = {options.settings.max_text_bytes} bytes in one text. "
            "Split it, raise the limit, or add the file to the source's `exclude`."
        )


def problem_of(text: object) -> str | None:
    """Return what makes a cell of a table no text, or None."""
    if not isinstance(text, str):
        return "no_text"
    if "\0" in text:
        return "nul_character"
    try:
        text.encode()
    except UnicodeEncodeError:
        return "half_a_surrogate_pair"
    return None
