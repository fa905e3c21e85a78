"""Sources of kind `installed`: text that the environment already holds, pinned by Python and by the lock.

Every file of a distribution is checked against the SHA-256 in its RECORD (PEP 376, PEP 627); a file that has
none there, such as byte code, is not read.
"""

import base64
import hashlib
import io
import os
import platform
import sysconfig
import tokenize
from collections.abc import Iterator
from importlib.metadata import Distribution, PackageNotFoundError, PackagePath, distribution
from pathlib import Path, PurePosixPath
from pydoc_data.topics import topics

from stages.corpus.candidates import Candidate, Reading, decode, select
from stages.corpus.docstrings import docstrings
from stages.corpus.licenses import License, of_distribution, stated
from stages.corpus.sources import InstalledSource
from stages.errors import UserError

# Below the standard library's folder, but not of it: other distributions, byte code, and what a build or its
# packager wrote about the machine.
NOT_STANDARD_FOLDERS = {"site-packages", "dist-packages", "__pycache__"}
NOT_STANDARD_FILES = ("/config-*/", "/_sysconfigdata_*", "/sitecustomize.py")


def read(source: InstalledSource) -> Reading:
    """Open a source of kind `installed`.

    Raises:
        UserError: Another Python runs, or a distribution is not installed.
    """
    if source.pin.distributions is None:
        return _read_python(source, source.pin.python or "")
    found = [_find(name) for name in sorted(source.pin.distributions)]
    versions = {each.name: each.version for each in found}
    return Reading(versions, (candidate for each in found for candidate in _of_distribution(source, each)))


def _read_python(source: InstalledSource, pin: str) -> Reading:
    version = platform.python_version()
    if version != pin and not version.startswith(f"{pin}."):
        raise UserError(
            f"A source's pin.python is '{pin}' but Python {version} runs. Run that Python, or move the pin."
        )
    candidates = _topics if source.text == "topics" else _standard_library
    return Reading({"python": version}, candidates(source, f"python=={version}"))


def _topics(source: InstalledSource, prefix: str) -> Iterator[Candidate]:
    terms = stated(source.license)
    for name in sorted(topics):
        yield Candidate(topics[name], f"{prefix}/pydoc_data/topics.py#{name}", terms)


def _standard_library(source: InstalledSource, prefix: str) -> Iterator[Candidate]:
    root = Path(sysconfig.get_path("stdlib"))
    for path in select(_walk(root), source.include, [*source.exclude, *NOT_STANDARD_FILES]):
        yield from _of_file(source, (root / path).read_bytes(), f"{prefix}/{path}", stated(source.license))


def _walk(root: Path) -> Iterator[str]:
    """Yield the relative POSIX paths of the standard library's files."""
    for folder, folders, names in os.walk(root):
        folders[:] = [name for name in folders if name not in NOT_STANDARD_FOLDERS]
        yield from (Path(folder, name).relative_to(root).as_posix() for name in names)


def _find(name: str) -> Distribution:
    try:
        return distribution(name)
    except PackageNotFoundError:
        raise UserError(
            f"Distribution '{name}' of a source's pin.distributions is not installed. "
            "Install requirements.lock, or take it out."
        ) from None


def _of_distribution(source: InstalledSource, found: Distribution) -> Iterator[Candidate]:
    terms = of_distribution(found.metadata) if source.license == "metadata" else stated(source.license)
    # A path that leaves site-packages is a script, whose first line the installer rewrites for the machine.
    recorded = {
        str(file): file for file in found.files or () if file.hash and ".." not in PurePosixPath(str(file)).parts
    }
    for path in select(recorded, source.include, source.exclude):
        origin = f"{found.name}=={found.version}/{path}"
        yield from _of_file(source, _verified(recorded[path], origin), origin, terms)


def _verified(file: PackagePath, origin: str) -> bytes:
    """Return the file's bytes, which have the digest that RECORD says."""
    try:
        data = Path(str(file.locate())).read_bytes()
    except FileNotFoundError:
        raise UserError(f"'{origin}' is in its RECORD but not on the disk. Install requirements.lock again.") from None
    recorded = file.hash
    assert recorded is not None
    digest = hashlib.new(recorded.mode, data).digest()
    actual = base64.urlsafe_b64encode(digest).rstrip(b"=").decode()
    if actual != recorded.value:
        raise UserError(
            f"'{origin}' has {recorded.mode} {actual} but its RECORD says {recorded.value}: "
            "it was changed after it was installed. Install requirements.lock again."
        )
    return data


def _of_file(source: InstalledSource, data: bytes, origin: str, terms: License) -> Iterator[Candidate]:
    text = decode(data, origin, _python_encoding(data, origin) if origin.endswith(".py") else "utf-8")
    if source.text == "docstrings":
        text = docstrings(text, origin)
    if text:
        yield Candidate(text, origin, terms)


def _python_encoding(data: bytes, origin: str) -> str:
    """Return the encoding that a Python file declares (PEP 263)."""
    try:
        return tokenize.detect_encoding(io.BytesIO(data).readline)[0]
    except SyntaxError as error:
        raise UserError(f"'{origin}': {error}. Convert it, or add it to the source's `exclude`.") from None
