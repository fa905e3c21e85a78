"""SHA256SUMS: the list of a release's files with their digests, in the format of coreutils' `sha256sum`.

Its own SHA-256 is the release digest: it names every file and every byte of the release.
"""

import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from stages.errors import UserError
from stages.files import sha256_file

SUMS = "SHA256SUMS"
ADDED_BY_THE_HUB = frozenset({".gitattributes"})
_LINE = re.compile(r"([0-9a-f]{64})  ([^\n]+)")


def paths(root: Path) -> list[str]:
    """Return the relative paths of everything below `root` that is not a directory, sorted."""
    return sorted(
        path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_symlink() or not path.is_dir()
    )


def write(root: Path) -> str:
    """Write SHA256SUMS over all other files of `root`; return the release digest."""
    lines = [f"{sha256_file(root / path)}  {path}\n" for path in paths(root) if path != SUMS]
    (root / SUMS).write_text("".join(lines), encoding="utf-8")
    return digest(root)


def digest(root: Path) -> str:
    """Return the release digest: the SHA-256 of SHA256SUMS.

    Raises:
        UserError: `root` has no SHA256SUMS.
    """
    if not (root / SUMS).is_file():
        raise UserError(f"'{root}' is not a release: it has no {SUMS}. Run `dvc repro release`, or correct the path.")
    return sha256_file(root / SUMS)


def read(root: Path) -> dict[str, str]:
    """Return {path: sha256} as SHA256SUMS states it.

    Raises:
        UserError: The file is missing, malformed, or names a path outside the release.
    """
    digest(root)
    return parse((root / SUMS).read_text(encoding="utf-8"), str(root / SUMS))


def parse(text: str, where: str) -> dict[str, str]:
    """Return {path: sha256} of the text of a SHA256SUMS file that lies at `where`."""
    stated: dict[str, str] = {}
    for number, line in enumerate(text.splitlines(), start=1):
        match = _LINE.fullmatch(line)
        if match is None or not _is_inside(match[2]) or match[2] in stated:
            raise UserError(f"'{where}' line {number} is not 'sha256  path' of a new file inside: {line[:200]!r}.")
        stated[match[2]] = match[1]
    return stated


def differences(root: Path, tolerated: frozenset[str] = frozenset()) -> Iterator[str]:
    """Yield what differs between SHA256SUMS and the files below `root`; files in `tolerated` may be there besides."""
    stated = read(root)
    present = {path for path in paths(root) if path != SUMS}
    for path in sorted(stated.keys() | present):
        if path not in present:
            yield f"{path}: missing"
        elif path not in stated:
            if path not in tolerated or (root / path).is_symlink():
                yield f"{path}: not listed in {SUMS}"
        elif _leads_elsewhere(root, path):
            yield f"{path}: a symbolic link"
        elif (actual := sha256_file(root / path)) != stated[path]:
            yield f"{path}: sha256 is {actual}, {SUMS} says {stated[path]}"


def _is_inside(path: str) -> bool:
    parts = PurePosixPath(path).parts
    plain = "\\" not in path and PurePosixPath(*parts).as_posix() == path
    return plain and path != "." and not path.startswith("/") and ".." not in parts


def _leads_elsewhere(root: Path, path: str) -> bool:
    return any((root / part).is_symlink() for part in [path, *map(str, PurePosixPath(path).parents)] if part != ".")
