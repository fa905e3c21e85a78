"""What must hold before a release leaves this machine: it is whole, the Hub can hold it, and it holds no secret."""

import re
import tarfile
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path, PurePosixPath

from release import sums
from stages.errors import UserError

MAX_FILE_BYTES = 50 * 10**9  # the Hub's limit, in decimal GB (Hub documentation, "Storage limits")
MAX_FILES = 100_000
MAX_ENTRIES_PER_DIRECTORY = 10_000
BLOCK = 1 << 24
OVERLAP = 4096  # longer than any secret that the patterns below match

SECRETS: dict[str, re.Pattern[bytes]] = {
    "Hugging Face token": re.compile(rb"\bhf_[A-Za-z0-9]{34,}\b"),
    "GitHub token": re.compile(rb"\b(?:gh[pousr]_[A-Za-z0-9]{36}|github_pat_[A-Za-z0-9_]{60,})"),
    "AWS access key": re.compile(rb"\b(?:AKIA|ASIA)(?!IOSFODNN7EXAMPLE)[0-9A-Z]{16}\b"),
    "Google API key": re.compile(rb"\bAIza[0-9A-Za-z_-]{35}\b"),
    "Slack token": re.compile(rb"\bxox[abprs]-[0-9A-Za-z-]{20,}"),
    "OpenAI or Anthropic key": re.compile(rb"\bsk-(?:proj-|ant-)?[A-Za-z0-9_-]{40,}"),
    "private key": re.compile(rb"-----BEGIN [A-Z ]*PRIVATE KEY-----(?:\\n|\s)+[A-Za-z0-9+/=]{40}"),
}


def check(root: Path, reviewed: Sequence[str] = (), tokens: Iterable[str] = ()) -> dict[str, str]:
    """Return {path: sha256} of the release at `root`, SHA256SUMS excluded, after every check.

    Args:
        root: The release.
        reviewed: Paths in the release where a person has seen that what looks like a secret is none.
        tokens: Secrets of this machine that no file may hold, whatever they look like.

    Raises:
        UserError: The release differs from its SHA256SUMS, breaks a limit of the Hub, or holds a secret.
    """
    if differing := list(sums.differences(root)):
        raise UserError(
            f"'{root}' is damaged and was not published: {'; '.join(differing[:5])}"
            f"{f'; and {len(differing) - 5} more' if len(differing) > 5 else ''}. Run `dvc repro -f release`."
        )
    files = sums.read(root)
    faults = [*_breaches(root, files), *_found_secrets(root, files.keys() - set(reviewed), tokens)]
    if faults:
        raise UserError(f"'{root}' was not published: {'; '.join(faults[:5])}.")
    return files


def _breaches(root: Path, files: Iterable[str]) -> Iterator[str]:
    everything = [*files, sums.SUMS]
    if len(everything) > MAX_FILES:
        yield f"{len(everything)} files, and the Hub recommends at most {MAX_FILES}"
    for directory, entries in Counter(str(PurePosixPath(path).parent) for path in everything).items():
        if entries > MAX_ENTRIES_PER_DIRECTORY:
            yield f"'{directory}' has {entries} files, and the Hub takes {MAX_ENTRIES_PER_DIRECTORY} in a directory"
    for path in everything:
        if (size := (root / path).stat().st_size) > MAX_FILE_BYTES:
            yield f"'{path}' has {size} bytes, and the Hub takes {MAX_FILE_BYTES} in a file"
        if {".git", ".cache", ".gitignore"} & set(PurePosixPath(path).parts):
            yield f"'{path}' has a name that the Hub refuses or acts on"


def _found_secrets(root: Path, paths: Iterable[str], tokens: Iterable[str]) -> Iterator[str]:
    patterns = SECRETS | {
        f"token of this machine ({number})": re.compile(re.escape(token).encode())
        for number, token in enumerate(tokens, start=1)
    }
    for path in sorted(paths):
        for name, blocks in _contents(root / path):
            for kind in _matches(blocks, patterns):
                inside = f" (in {name})" if name else ""
                yield (
                    f"'{path}'{inside} holds what looks like a {kind}. Remove it at its source; if it is none, "
                    "add the path to publish.secrets_reviewed"
                )


def _matches(blocks: Iterable[bytes], patterns: dict[str, re.Pattern[bytes]]) -> list[str]:
    found: set[str] = set()
    tail = b""
    for block in blocks:
        window = tail + block
        found.update(kind for kind, pattern in patterns.items() if pattern.search(window))
        tail = window[-OVERLAP:]
    return sorted(found)


def _contents(path: Path) -> Iterator[tuple[str | None, Iterator[bytes]]]:
    """Yield (name inside, blocks of bytes) of the file, and of every member when it is an archive."""
    if path.name.endswith(".tar.gz"):
        with tarfile.open(path) as tar:
            for member in tar:
                if file := tar.extractfile(member) if member.isfile() else None:
                    yield member.name, iter([file.read()])
        return
    with path.open("rb") as opened:
        yield None, iter(lambda: opened.read(BLOCK), b"")
