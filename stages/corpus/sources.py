"""Settings of the sources that a snapshot takes, one class a kind. Imports nothing heavy."""

from typing import Annotated, Literal

from pydantic import Field, StringConstraints, model_validator

from stages.settings import Settings

Name = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9_]*$")]
Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]


class SourceSettings(Settings):
    """What every kind of source has."""

    domain: Name
    """The part of the mix that the documents belong to."""
    include: tuple[str, ...] = Field(("**",), min_length=1)
    """Patterns as in .gitignore of the files to read, relative to the source's root."""
    exclude: tuple[str, ...] = ()
    """Patterns of files to leave out; they win over `include`."""
    sha256: Sha256 | None = None
    """Digest of the whole source as in manifest.json; another one ends the stage."""


class Pin(Settings):
    """What an `installed` source is: Python itself, or distributions that the lock pins."""

    python: str | None = None
    """The running Python's version, or the beginning of it: "3.11" takes any patch."""
    distributions: tuple[str, ...] | None = Field(None, min_length=1)
    """Names of installed distributions; requirements.lock has their versions."""

    @model_validator(mode="after")
    def _one(self) -> "Pin":
        if (self.python is None) == (self.distributions is None):
            raise ValueError("pin has either `python` or `distributions`")
        return self


class InstalledSource(SourceSettings):
    """Text that the environment holds: the standard library, or the files of installed distributions."""

    kind: Literal["installed"]
    """Picks this class."""
    pin: Pin
    """Python or distributions."""
    license: str
    """An SPDX expression, or `metadata`: each distribution's own."""
    text: Literal["whole", "docstrings", "topics"] = "whole"
    """The whole file; the docstrings of a Python file; or `pydoc_data.topics`, the language reference."""

    @model_validator(mode="after")
    def _fits_the_pin(self) -> "InstalledSource":
        if self.pin.python and self.license == "metadata":
            raise ValueError("Python has no distribution metadata: give license as an SPDX expression")
        if self.pin.distributions and self.text == "topics":
            raise ValueError("text = topics is Python's own: pin `python`")
        return self


class FilesSource(SourceSettings):
    """Files below a folder: .txt, .md, .rst, .jsonl, .jsonl.gz, .jsonl.zst or .parquet."""

    kind: Literal["files"]
    """Picks this class."""
    root: str
    """The folder. It appears in no output."""
    license: str | None = None
    """SPDX expression of every document."""
    license_column: str | None = None
    """The column of .jsonl and .parquet that holds each document's SPDX expression."""
    text_column: str = "text"
    """The column of .jsonl and .parquet that holds the text."""

    @model_validator(mode="after")
    def _one_license(self) -> "FilesSource":
        if (self.license is None) == (self.license_column is None):
            raise ValueError("a files source has either `license` or `license_column`")
        return self


Source = Annotated[InstalledSource | FilesSource, Field(discriminator="kind")]
