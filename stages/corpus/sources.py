"""Settings of the sources that a snapshot takes, one class a kind. Imports nothing heavy."""

import posixpath
import re
from typing import Annotated, Any, Literal, Self
from urllib.parse import urlsplit

from pydantic import Field, StringConstraints, field_validator, model_validator

from stages.formats.settings import FormatSettings
from stages.settings import Settings

Name = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9_]*$")]
_GIT_SCHEMES = ("https", "http", "ssh", "git", "file")
Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]


class SourceSettings(Settings):
    """What every kind of source has."""

    domain: Name
    """The part of the mix that the documents belong to."""
    sha256: Sha256 | None = None
    """Digest of the whole source as in manifest.json; another one ends the stage."""

    def public(self) -> dict[str, Any]:
        """Return the settings without what is this machine's own, as the manifest has them."""
        return self.model_dump(mode="json")


class Selection(Settings):
    """Which of a source's files are read."""

    include: tuple[str, ...] = Field(("**",), min_length=1)
    """Patterns as in .gitignore of the files to read, relative to the source's root."""
    exclude: tuple[str, ...] = ()
    """Patterns of files to leave out; they win over `include`."""


class Texts(Settings):
    """Where a source's files have their texts and licenses."""

    license: str | None = None
    """SPDX expression of every document."""
    license_column: str | None = None
    """The column that holds each document's license, as an SPDX expression or in words that stages.corpus.license_map
    knows."""
    license_revision: str | None = None
    """The upstream revision that `license` was read at. Where the source is pinned to a commit it is that one, so that
    whoever moves the pin reads the license again: a text that was given another one later, or earlier, is judged by
    the license at its pin. A column's licenses are at the pin."""
    license_basis: Literal["text", "repository"] = "text"
    """What says so: the texts, or the page that carries them; or only a license file of the repository, which may be
    meant for its code."""
    license_note: str = ""
    """What a reader should know of the license, such as that it was changed after this revision."""
    text_column: str = "text"
    """The column of .jsonl and .parquet that holds the text."""
    url_column: str | None = None
    """The column that holds the address a text was found at; WARC has its own."""
    author_column: str | None = None
    """The column that holds who wrote a text."""
    formats: FormatSettings = Field(default_factory=FormatSettings)
    """How files become texts."""

    @model_validator(mode="after")
    def _one_license(self) -> Self:
        if (self.license is None) == (self.license_column is None):
            raise ValueError("a source has either `license` or `license_column`")
        return self

    @model_validator(mode="after")
    def _license_holds_at_the_pin(self) -> Self:
        stated = self.license is not None or self.license_revision is not None
        if self.upstream is not None and stated and self.license_revision != self.upstream:
            raise ValueError(
                f"the license was read at {self.license_revision!r}, but the source is pinned to '{self.upstream}': "
                "read the license there, and set license_revision to it"
            )
        return self

    @property
    def upstream(self) -> str | None:
        """The commit that the source is pinned to, where it has one."""
        return None


class Referable(Settings):
    """Whether a snapshot holds a source's texts, or names its files."""

    by_reference: bool = False
    """Record each file's path, size and digest instead of its texts: later stages read the files where they are."""


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


class InstalledSource(SourceSettings, Selection):
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


class FilesSource(SourceSettings, Selection, Texts, Referable):
    """Files below a folder, in the formats of stages.formats."""

    kind: Literal["files"]
    """Picks this class."""
    root: str
    """The folder. It appears in no output."""

    def public(self) -> dict[str, Any]:
        """Return the settings without the folder."""
        return self.model_dump(mode="json", exclude={"root"})


class HubSource(SourceSettings, Selection, Texts, Referable):
    """Files of a data set on the Hugging Face Hub, at a commit."""

    kind: Literal["hub"]
    """Picks this class."""
    dataset: str = Field(pattern=r"^[\w.-]+(/[\w.-]+)?$")
    """The data set's name on the Hub, such as `HuggingFaceFW/fineweb`."""
    revision: str = Field(min_length=1)
    """The commit, 40 hex digits; a branch or tag is refused with the commit that it points to."""
    config: str | None = None
    """A configuration that the README's `configs` declare; its files are read, as far as `include` has them."""
    split: str | None = None
    """A split of the configuration; null reads all."""

    @property
    def upstream(self) -> str | None:
        """The revision."""
        return self.revision

    @model_validator(mode="after")
    def _names_files(self) -> Self:
        if self.split is not None and self.config is None:
            raise ValueError("split is one of a configuration's: give `config`")
        if self.config is None and self.include == ("**",):
            raise ValueError("give `config`, or patterns of the data files as `include`")
        return self


class PinnedUrl(Settings):
    """A file at a URL, and what it holds."""

    url: str
    """http, https, s3, gs or file."""
    sha256: Sha256
    """Digest of the file; another one ends the stage."""

    @field_validator("url")
    @classmethod
    def _fetchable(cls, url: str) -> str:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https", "s3", "gs", "file") or "::" in url:
            raise ValueError("a URL begins with http, https, s3, gs or file")
        if "@" in parts.netloc:
            raise ValueError("a URL holds no user or password: params.yaml is published")
        return url


class UrlSource(SourceSettings, Texts, Referable):
    """Files at URLs, each pinned by its digest."""

    kind: Literal["url"]
    """Picks this class."""
    files: dict[str, PinnedUrl] = Field(min_length=1)
    """Each file by the name that it has in the snapshot; the name's ending says its format."""

    @field_validator("files")
    @classmethod
    def _names_stay_inside(cls, files: dict[str, PinnedUrl]) -> dict[str, PinnedUrl]:
        for name in files:
            if name.startswith(("/", "../")) or posixpath.normpath(name) != name:
                raise ValueError(f"'{name}' is not a relative path in its shortest form")
        return files

    def public(self) -> dict[str, Any]:
        """Return the settings without the paths of file URLs."""
        settings = self.model_dump(mode="json")
        for file in settings["files"].values():
            if file["url"].startswith("file:"):
                del file["url"]
        return settings


class GitSource(SourceSettings, Selection, Texts, Referable):
    """Files of a git repository, at a commit."""

    kind: Literal["git"]
    """Picks this class."""
    repository: str
    """A URL (https, http, ssh, git or file), `user@host:path`, or a folder of this machine."""
    commit: str = Field(min_length=1)
    """The commit, 40 hex digits; a branch or tag is refused with the commit that it points to."""

    @property
    def upstream(self) -> str | None:
        """The commit."""
        return self.commit

    @field_validator("repository")
    @classmethod
    def _is_no_command(cls, repository: str) -> str:
        scheme, separator, _ = repository.partition("://")
        if repository.startswith("-") or "::" in repository or (separator and scheme not in _GIT_SCHEMES):
            raise ValueError("a repository is a URL (https, http, ssh, git, file), user@host:path, or a folder")
        if separator and ":" in urlsplit(repository).netloc.rpartition("@")[0]:
            raise ValueError("a URL holds no password: params.yaml is published")
        return repository

    def public(self) -> dict[str, Any]:
        """Return the settings without a folder of this machine."""
        remote = re.match(r"(https|http|ssh|git)://|[\w.-]+@[\w.-]+:", self.repository)
        return self.model_dump(mode="json", exclude=set() if remote else {"repository"})


Source = Annotated[InstalledSource | FilesSource | HubSource | UrlSource | GitSource, Field(discriminator="kind")]
