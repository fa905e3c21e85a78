"""Sources of kind `url`: files by http(s), s3, gs and file, each pinned by its SHA-256, through fsspec.

A download that breaks off goes on from where it was, in this attempt or the next. Why not fsspec's own `get_file`:
it starts again from the first byte, and takes a body that ends early for the whole of it where the server gives no
length.
"""

import errno
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

import aiohttp
import fsspec  # type: ignore[import-untyped]  # it ships no types
from fsspec.implementations.http import HTTPStreamFile  # type: ignore[import-untyped]
from tqdm import tqdm

from release.retry import UnclearError, until_clear
from stages.corpus.candidates import Reference
from stages.corpus.progress import bar
from stages.corpus.sources import UrlSource
from stages.corpus.stores import Listing, Store
from stages.errors import UserError
from stages.formats import formats

PACKAGES = {"s3": "s3fs", "gs": "gcsfs"}
_BLOCK = 1 << 20
_PASSING = frozenset({408, 425, 429, 500, 502, 503, 504})
_LONGEST_WAIT = 300.0  # seconds of a Retry-After that are waited
_PARTIAL_CONTENT = 206
_FINAL = (FileNotFoundError, PermissionError, IsADirectoryError)
T = TypeVar("T")


class UrlStore(Store):
    """Files at URLs."""

    def __init__(self, source: UrlSource, folder: Path) -> None:
        """Keep what is fetched below `folder`, each file under its digest."""
        super().__init__("the source's files")
        self._source, self._folder = source, folder

    def listing(self) -> Listing:
        """Return the files with the sizes and ETags that their servers say."""
        formats.check(self._source.files, self.where, self._source.formats)
        return Listing({}, tuple(self._listed(name) for name in sorted(self._source.files)), {})

    def fetch(self, file: Reference) -> Path:
        """Download the file, going on from what is there."""
        pinned = self._source.files[file.path]
        path = self._folder / pinned.sha256
        if path.exists():
            return path
        self._folder.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(".partial")
        system = _system(pinned.url)
        while not until_clear(lambda: _advance(system, pinned.url, partial, file.size)):
            pass
        return partial.rename(path)

    def _listed(self, name: str) -> Reference:
        pinned = self._source.files[name]
        system = _system(pinned.url)
        info = until_clear(lambda: _answer(pinned.url, lambda: system.info(pinned.url)))
        etag = info.get("ETag") or info.get("etag")
        return Reference(name, info["size"], f"sha256:{pinned.sha256}", etag)


def _system(url: str) -> Any:
    """Return fsspec's file system for a URL; it is one object for all URLs of a protocol."""
    protocol = urlsplit(url).scheme
    options: dict[str, Any] = {}
    if protocol in ("http", "https"):
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=30, sock_read=60)
        # Without `identity`, a server may compress what it sends, and the bytes are no longer the file's.
        options["client_kwargs"] = {"headers": {"Accept-Encoding": "identity"}, "timeout": timeout, "trust_env": True}
    try:
        return fsspec.filesystem(protocol, **options)
    except ImportError:
        package = PACKAGES[protocol]
        raise UserError(f"'{url}' needs the package {package}. Install it: `pip install {package}`.") from None


def _advance(system: Any, url: str, partial: Path, size: int | None) -> bool:
    """Append to `partial` what follows in the file; return whether that is the end.

    Raises:
        UnclearError: Nothing came.
        UserError: The server's word is final.
    """
    done = partial.stat().st_size if partial.exists() else 0
    if done and done == size:
        return True
    try:
        _answer(url, lambda: _append(system, url, partial, done, size))
    except UnclearError:
        if partial.exists() and partial.stat().st_size > done:
            return False
        raise
    now = partial.stat().st_size
    if size is not None and now < size:
        if now > done:
            return False
        raise UnclearError(f"'{url}' ended after {now} of {size} bytes")
    return True


def _append(system: Any, url: str, partial: Path, done: int, size: int | None) -> None:
    shown: tqdm[Any] = bar(desc=url, total=size, initial=done, unit="B")
    with _opened(system, url, done) as remote, partial.open("ab") as local, shown:
        if done and isinstance(remote, HTTPStreamFile) and remote.r.status != _PARTIAL_CONTENT:
            local.truncate(0)  # the server sends the file from its beginning, whatever was asked
            shown.reset()
        while block := remote.read(_BLOCK):
            local.write(block)
            shown.update(len(block))


def _opened(system: Any, url: str, done: int) -> Any:
    """Open a file at an offset; http streams, so that a server without byte ranges can be read too."""
    if urlsplit(url).scheme in ("http", "https"):
        headers = {"headers": {"Range": f"bytes={done}-"}} if done else {}
        return system.open(url, block_size=0, size=1, **headers)  # any size: it only saves asking for it
    file = system.open(url)
    file.seek(done)
    return file


def _answer(url: str, call: Callable[[], T]) -> T:
    """Return the answer; tell the unclear (`UnclearError`) from the final (`UserError`)."""
    try:
        return call()
    except (OSError, ValueError, aiohttp.ClientError) as error:
        cause = error.__cause__ if isinstance(error.__cause__, aiohttp.ClientError) else error
        if isinstance(cause, aiohttp.ClientResponseError):
            raise _refused(url, cause) from error
        if isinstance(cause, _FINAL):
            raise UserError(f"'{url}' cannot be read: {_one_line(cause)}. Correct it, or see to its rights.") from error
        if isinstance(cause, OSError) and cause.errno in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise UnclearError(f"'{url}': {_one_line(cause)}") from error


def _refused(url: str, error: aiohttp.ClientResponseError) -> Exception:
    if error.status in _PASSING:
        wait = error.headers.get("Retry-After", "") if error.headers else ""
        seconds = min(float(wait), _LONGEST_WAIT) if wait.isdecimal() else 0.0
        return UnclearError(f"'{url}' is answered by {error.status} {error.message}", seconds)
    return UserError(f"'{url}' is answered by {error.status} {error.message}. Correct it, or see to its rights.")


def _one_line(error: BaseException) -> str:
    return " ".join(f"{type(error).__name__} {error}".split())
