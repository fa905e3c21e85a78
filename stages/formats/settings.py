"""How files become texts: parameters of the formats. Imports nothing heavy."""

from typing import Literal

from pydantic import Field

from stages.settings import Settings


class FormatSettings(Settings):
    """What a source says of its files beside their names; the defaults fit most."""

    encodings: dict[str, str] = Field(default_factory=dict)
    """Encoding by pattern as in .gitignore, such as `"*-8.txt": latin-1`; the last that fits wins. Other files are
    decoded as their byte order mark or declaration says, as UTF-8, or as detected."""
    plain: tuple[str, ...] = ()
    """Patterns as in .gitignore of files that are text as they stand, whatever their ending, such as `["*.py", "*.rs",
    Makefile]`. Code in another encoding than UTF-8 is read as its first two lines say (PEP 263)."""
    html: Literal["main", "whole"] = "main"
    """Text of HTML: `main` leaves out navigation, headers, footers and the like; `whole` takes all that is shown."""
    latex_math: Literal["verbatim", "text"] = "verbatim"
    """Formulas of LaTeX as their source, or as Unicode approximations."""
    namespaces: tuple[int, ...] = Field((0,), min_length=1)
    """Namespaces of a MediaWiki export that are read; 0 has the articles. Redirects are never read."""
    bad_rows: Literal["stop", "refuse"] = "stop"
    """What becomes of a row whose text is none, has NUL characters or half a surrogate pair: the stage ends, or the
    row is refused by name, as for its license."""
    max_text_bytes: int = Field(1 << 26, gt=0)
    """A longer text, line or page ends the stage."""
    max_file_bytes: int = Field(1 << 40, gt=0)
    """A file that is longer when decompressed ends the stage."""
    max_ratio: float = Field(200.0, gt=1)
    """Decompressed bytes for each compressed one; more ends the stage. Text has 2 to 20, a zip bomb 1000 and more."""
