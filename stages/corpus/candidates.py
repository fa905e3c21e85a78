"""What a kind of source yields: the narrow seam between a source and the snapshot."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

import pathspec

from stages.corpus.licenses import License
from stages.errors import UserError


@dataclass(frozen=True, slots=True)
class Candidate:
    """A text that a source offers; the license gate admits or refuses it.

    Attributes:
        text: The text; it encodes as UTF-8.
        origin: Where it is in the source, unique there and the same on every machine.
        license: What is known of its license.
        url: The address that it was found at, if the source says one.
        author: Who wrote it, if the source says so.
        encoding: The encoding of the bytes that it was read from.
        problem: Why there is no text, in snake case; the gate refuses it for this.
    """

    text: str
    origin: str
    license: License
    url: str = ""
    author: str = ""
    encoding: str = "utf-8"
    problem: str | None = None


@dataclass(frozen=True, slots=True)
class Reference:
    """A file that a source names: enough to find it again, and to know that it is the same.

    Attributes:
        path: Its path in the source; its ending says its format.
        size: Bytes; None where a server does not say.
        digest: `sha256:<hex>`, or `git-blob:<hex>` where only git's id is known before the file is read.
        etag: What the server calls this version of the file; for the record, since mirrors and restarts change it.
        revision: The commit that has the file.
    """

    path: str
    size: int | None
    digest: str
    etag: str | None = None
    revision: str | None = None


@dataclass(frozen=True)
class Reading:
    """A source that is open for reading.

    Attributes:
        versions: Exact versions of what is read, by name.
        candidates: The texts, in the order of file and position in the file; to be iterated once.
        references: The files that the texts are read from, where they are pinned one by one.
        skipped: Why a selected entry is not read, by its path.
    """

    versions: dict[str, str]
    candidates: Iterator[Candidate]
    references: tuple[Reference, ...] = ()
    skipped: Mapping[str, str] = field(default_factory=dict)


def select(paths: Iterable[str], include: Iterable[str], exclude: Iterable[str]) -> list[str]:
    """Return the relative POSIX paths that a pattern of `include` and none of `exclude` matches, sorted."""
    included = pathspec.PathSpec.from_lines("gitignore", include)
    excluded = pathspec.PathSpec.from_lines("gitignore", exclude)
    return sorted(path for path in paths if included.match_file(path) and not excluded.match_file(path))


def decode(data: bytes, origin: str, encoding: str = "utf-8") -> str:
    """Return the text of a file; its line ends stay as they are.

    Raises:
        UserError: The bytes are not valid in the encoding.
    """
    try:
        return data.decode(encoding)
    except UnicodeDecodeError as error:
        raise UserError(
            f"'{origin}' is not valid {encoding} at byte {error.start}. "
            "Convert it, or add it to the source's `exclude`."
        ) from None
