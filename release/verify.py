"""Recompute everything a release states and print what differs: `python -m release.verify PATH`.

PATH is a release as the pipeline made it, as a registry restored it, or as it was downloaded from the Hub. Needs
the checkout of its commit and the environment, and no network. Exits with 0 only if nothing differs.
"""

import subprocess
import sys
import tarfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

from pyarrow import ArrowException
from safetensors import SafetensorError

from release import checks, checks_evaluation, checks_source, checks_training, sums
from stages.errors import UserError

CHECKS: dict[str, Callable[[Path], Iterator[str]]] = {
    "files": checks.files,
    "weights": checks.weights,
    "training log": checks_training.log,
    "training documents": checks_training.documents,
    "training mixture": checks_training.mixture,
    "data": checks.data,
    "tokens": checks.tokens,
    "admissions": checks.admissions,
    "coverage": checks_evaluation.coverage,
    "tasks": checks_evaluation.tasks,
    "results": checks_evaluation.results,
    "model card": checks.model_card,
    "graph record": checks.graph_record,
    "source": checks_source.source,
}
# What reading a damaged or missing file raises; a check that cannot be made is one that fails.
UNREADABLE = (
    ArrowException,
    EOFError,
    IndexError,
    KeyError,
    OSError,
    SafetensorError,
    TypeError,
    AttributeError,
    ValueError,
    subprocess.SubprocessError,
    tarfile.TarError,
    zlib.error,
)


def differences(root: Path, check: Callable[[Path], Iterator[str]]) -> list[str]:
    """Return what one check finds, or that it could not be made."""
    try:
        return list(check(root))
    except UNREADABLE as error:
        return [f"could not be recomputed: {type(error).__name__}: {error}"]


def main(arguments: list[str]) -> int:
    """Print one line a check and one line a difference; return the exit code."""
    if len(arguments) != 1:
        print("usage: python -m release.verify PATH", file=sys.stderr)
        return 2
    root = Path(arguments[0])
    try:
        digest = sums.digest(root)
    except UserError as error:
        print(f"verify: {error}", file=sys.stderr)
        return 2
    failed = 0
    for name, check in CHECKS.items():
        found = differences(root, check)
        failed += bool(found)
        print(f"{'differs' if found else 'ok':8} {name}")
        for line in found:
            print(f"         {line}")
    print(f"release digest {digest}: {f'{failed} of {len(CHECKS)} checks differ' if failed else 'verified'}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
