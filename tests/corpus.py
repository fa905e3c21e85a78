"""The packs of ../shared as the sources of a pipeline; `python -m tests.corpus` pins them anew in tests/corpus.sha256.

They are to be pinned anew when a change to a format is meant to give other texts.
"""

import contextlib
import importlib.util
import tempfile
from pathlib import Path
from typing import Any

from stages.corpus.files import read
from stages.corpus.gate import Record, admit
from stages.files import sha256_tree
from stages.params import overlay
from stages.settings import read_yaml, validate
from stages.snapshot import SnapshotSettings
from tests.shared import shared

PARAMS = Path(__file__).with_name("corpus.yaml")
PINS = Path(__file__).with_name("corpus.sha256")
COPA = "include: {}\ndataset_path: {}\ndataset_name: null\ntraining_split: null\n"


def lay_out(folder: Path) -> None:
    """Put what the parameters name into a folder; a clone is to lie beside it there."""
    for pack in ("corpus", "bench"):
        (folder / pack).symlink_to(shared(pack))
    package = importlib.util.find_spec("lm_eval")
    assert package is not None and package.origin is not None
    builtin = Path(package.origin).parent / "tasks" / "super_glue" / "copa" / "default.yaml"
    (folder / "tasks").mkdir()
    (folder / "tasks" / "copa.yaml").write_text(COPA.format(builtin, folder / "bench" / "copa"))


def lay_over(params: dict[str, Any], folder: Path) -> None:
    """Change the parameters of the preset `toy` to those of the corpus; `folder` has been laid out."""
    corpus = read_yaml(PARAMS)
    for name, source in corpus["snapshot"]["sources"].items():
        source["sha256"] = _pins()[name]
    for benchmark in _benchmarks(corpus).values():
        benchmark["sha256"] = sha256_tree(folder / Path(benchmark["folder"]).relative_to(".."))
    for section in ("snapshot", "curate"):
        params[section] = corpus.pop(section)
    params["pretrain"]["phases"] = corpus["pretrain"].pop("phases")
    overlay(params, corpus)


def _benchmarks(corpus: dict[str, Any]) -> dict[str, Any]:
    """Return the benchmarks of the step that all chains share."""
    steps = corpus["curate"]["chains"]["books"]["steps"]
    found: dict[str, Any] = next(step["benchmarks"] for step in steps if step["step"] == "contamination")
    return found


def _pins() -> dict[str, str]:
    return {name: digest for digest, name in map(str.split, PINS.read_text(encoding="utf-8").splitlines())}


def _pin() -> None:
    settings = validate("snapshot", SnapshotSettings, read_yaml(PARAMS)["snapshot"], str(PARAMS))
    with tempfile.TemporaryDirectory() as folder:
        lay_out(Path(folder))
        (Path(folder) / "clone").mkdir()
        with contextlib.chdir(Path(folder) / "clone"):
            lines = [f"{_digest(name, source)}  {name}\n" for name, source in settings.sources.items()]
    PINS.write_text("".join(lines), encoding="utf-8")


def _digest(name: str, source: Any) -> str:
    record = Record(lambda _: None)
    for _ in admit(name, source, read(source).candidates, frozenset(), 1 << 40, record):
        pass
    digest: str = record.digest.hexdigest()
    return digest


if __name__ == "__main__":
    _pin()
