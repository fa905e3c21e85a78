"""Where everything lies in a release, and which file of the run it is a copy of."""

import shutil
from collections.abc import Iterator
from pathlib import Path

from stages.errors import UserError
from stages.files import OUT, require

CARD = "README.md"
LICENSE = "LICENSE"
MODEL = OUT / "export" / "model"
SIDECARS = "data/documents"
STEP_DOCUMENTS = "training/documents.parquet"

FILES = {
    "data/manifest.json": OUT / "snapshot" / "manifest.json",
    "data/refused.jsonl": OUT / "snapshot" / "refused.jsonl",
    "data/curation.json": OUT / "curate" / "report.json",
    "data/contamination.json": OUT / "curate" / "contamination.json",
    "data/contaminated.jsonl": OUT / "curate" / "contaminated.jsonl",
    "data/dropped.jsonl": OUT / "curate" / "dropped.jsonl",
    "data/shards.json": OUT / "shards" / "index.json",
    "data/tokens.json": OUT / "shards" / "funnel.json",
    "evaluation/results.json": OUT / "evaluate" / "results.json",
    STEP_DOCUMENTS: OUT / "pretrain" / "documents.parquet",
    "training/log.jsonl": OUT / "pretrain" / "log.jsonl",
    "training/mixture.json": OUT / "pretrain" / "mixture.json",
    "training/metrics.json": OUT / "pretrain" / "metrics.json",
    "training/run.json": OUT / "pretrain" / "run.json",
    "training/parity.json": OUT / "export" / "parity.json",
}
DIRECTORIES = {
    "data/references": OUT / "snapshot" / "references",
    "data/classifiers": OUT / "curate" / "classifiers",
    "evaluation/samples": OUT / "evaluate" / "samples",
    "evaluation/tasks": OUT / "evaluate" / "tasks",
}
CODE = {
    "code/params.yaml": Path("params.yaml"),
    "code/dvc.yaml": Path("dvc.yaml"),
    "code/requirements.lock": Path("requirements.lock"),
}


def copy(target: Path) -> None:
    """Copy the run's files to their places below `target`.

    Raises:
        UserError: One is missing; the message names the stage that makes it.
    """
    for place, source in {"": MODEL, **DIRECTORIES}.items():
        shutil.copytree(_made(source), target / place, dirs_exist_ok=True, copy_function=shutil.copyfile)
    for place, source in {**FILES, **CODE, **sidecars()}.items():
        (target / place).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(_made(source), target / place)


def sidecars() -> dict[str, Path]:
    """Return {place in the release: file} of the tables that tell every document in the shards."""
    tokens = OUT / "shards" / "tokens"
    return {f"{SIDECARS}/{path.relative_to(tokens).as_posix()}": path for path in sorted(tokens.glob("*/*.parquet"))}


def model_files(root: Path) -> dict[str, Path]:
    """Return {name: path} of the files at the top of a release that are the exported model."""
    others = {CARD, LICENSE, "SHA256SUMS", ".gitattributes"}
    return {path.name: path for path in sorted(root.iterdir()) if path.is_file() and path.name not in others}


def copied_outs(root: Path) -> Iterator[tuple[str, dict[str, Path] | Path]]:
    """Yield (path in the run, what of it lies in the release) of each file and each whole directory copied."""
    yield MODEL.as_posix(), model_files(root)
    for place, source in DIRECTORIES.items():
        below = (path for path in sorted((root / place).rglob("*")) if path.is_file())
        yield source.as_posix(), {path.relative_to(root / place).as_posix(): path for path in below}
    for place, source in FILES.items():
        yield source.as_posix(), root / place


def existing(path: Path, parameter: str = "") -> Path:
    """Return the path of a file of the repository.

    Raises:
        UserError: It is missing; the message names it, and the parameter that names it if one does.
    """
    if not path.is_file():
        remedy = f"Correct {parameter}" if parameter else "Run from the root of a complete checkout"
        raise UserError(f"'{path}' is missing, and a release holds it. {remedy}.")
    return path


def _made(path: Path) -> Path:
    return require(path, path.parts[1]) if path.parts[0] == OUT.name else existing(path)
