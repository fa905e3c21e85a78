"""The rules of the graph: what dvc.yaml must say of each stage."""

import ast
import re
from pathlib import Path
from typing import Any

import pytest

from stages.params import SECTIONS
from stages.settings import read_yaml

ROOT = Path(__file__).parents[1]
PACKAGES = ("stages", "model", "evals", "release")
GRAPH: dict[str, Any] = read_yaml(ROOT / "dvc.yaml")["stages"]
ORDER = ["snapshot", "curate", "tokenizer", "shards", "pretrain", "export", "evaluate", "release", "publish"]
FAMILIES = [f"model/families/{file.name}" for file in (ROOT / "model" / "families").glob("*.py")]
FORMATS = [f"stages/formats/{file.name}" for file in (ROOT / "stages" / "formats").glob("*.py")]
UNNAMED = {
    "model/launching/node.py": ["model/launching/process.py"],
    "model/families/family.py": FAMILIES,
    "stages/formats/formats.py": FORMATS,
}
"""Modules that a module starts as processes of their own, or finds by their files; no import names them."""


def modules_of(stage: str) -> set[str]:
    """Return the files of this repository that a stage imports, directly or not, with its own."""
    found: set[str] = set()
    waiting = [f"stages/{stage}.py"]
    while waiting:
        name = waiting.pop()
        if name not in found:
            found.add(name)
            waiting += [*imported_by(ROOT / name), *UNNAMED.get(name, [])]
    return found


def imported_by(file: Path) -> list[str]:
    names = []
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
    files = [name.replace(".", "/") + ".py" for name in names if name.split(".")[0] in PACKAGES]
    return [name for name in files if (ROOT / name).is_file()]


def paths(entries: list[Any]) -> list[str]:
    return [next(iter(entry)) if isinstance(entry, dict) else entry for entry in entries]


def outputs(stage: str) -> list[str]:
    return [path for kind in ("outs", "metrics", "plots") for path in paths(GRAPH[stage].get(kind, []))]


def test_the_stages_are_those_of_the_pipeline_in_its_order() -> None:
    assert list(GRAPH) == ORDER


@pytest.mark.parametrize("stage", ORDER)
def test_a_stage_is_described_and_runs_its_own_file(stage: str) -> None:
    assert len(GRAPH[stage]["desc"]) > 20
    assert GRAPH[stage]["cmd"] == f"python -m stages.{stage}"


@pytest.mark.parametrize("stage", ORDER)
def test_no_stage_is_frozen_persistent_or_always_changed(stage: str) -> None:
    assert not {"frozen", "always_changed"} & set(GRAPH[stage])
    options = [entry for kind in ("outs", "metrics", "plots") for entry in GRAPH[stage].get(kind, [])]
    assert not any("persist" in value for entry in options if isinstance(entry, dict) for value in entry.values())


@pytest.mark.parametrize("stage", ORDER)
def test_a_stage_depends_on_exactly_the_modules_it_imports(stage: str) -> None:
    declared = {path for path in paths(GRAPH[stage]["deps"]) if path.endswith(".py")}
    assert declared == modules_of(stage)


@pytest.mark.parametrize("stage", ORDER)
def test_a_stage_depends_on_the_tables_and_templates_beside_its_modules(stage: str) -> None:
    beside = {
        f"{Path(module).parent}/{name}"
        for module in modules_of(stage)
        for name in re.findall(r'Path\(__file__\)\.with_name\("([^"]+)"\)', (ROOT / module).read_text(encoding="utf-8"))
    }
    assert beside <= set(paths(GRAPH[stage]["deps"]))


@pytest.mark.parametrize("stage", ORDER)
def test_a_stage_reads_only_what_an_earlier_stage_writes(stage: str) -> None:
    earlier = [path for other in ORDER[: ORDER.index(stage)] for path in outputs(other)]
    read = [path for path in paths(GRAPH[stage]["deps"]) if path.startswith("out/")]
    for path in read:
        assert any(path == output or path.startswith(f"{output}/") for output in earlier), path
    assert read or stage == "snapshot"


@pytest.mark.parametrize("stage", ORDER)
def test_a_stage_writes_below_its_own_name(stage: str) -> None:
    assert outputs(stage)
    assert all(path == f"out/{stage}" or path.startswith(f"out/{stage}/") for path in outputs(stage))


@pytest.mark.parametrize("stage", ORDER)
def test_a_stage_takes_its_own_parameters(stage: str) -> None:
    names = paths(GRAPH[stage].get("params", []))
    own = {name for name in names if name.split(".")[0] == stage}
    keys = {f"{stage}.{key}" for key in SECTIONS[stage].model_fields}
    assert own in ({stage}, keys - {f"{stage}.engine"})  # who does the work decides nothing
    assert {name.split(".")[0] for name in names} <= set(SECTIONS)


EXCEPTIONS = "huggingface_hub.errors"
"""Also raised by transformers, for a configuration that it cannot read."""


OWNERS = {
    "parallel_state": ["model/parallel.py"],
    "lm_eval": ["evals/harness.py"],
    "huggingface_hub": ["release/hub.py", "release/hub_client.py", "stages/corpus/hub.py"],  # publish, both, snapshot
}


@pytest.mark.parametrize("module", OWNERS)
def test_a_foreign_library_is_touched_by_its_owners_alone(module: str) -> None:
    users = [
        str(file.relative_to(ROOT))
        for package in PACKAGES
        for file in sorted((ROOT / package).rglob("*.py"))
        if any(module in name.split(".") and not name.startswith(EXCEPTIONS) for name in foreign_imports(file))
    ]
    assert sorted(users) == OWNERS[module]


def foreign_imports(file: Path) -> list[str]:
    names = []
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names += [f"{node.module}.{alias.name}" for alias in node.names]
    return names
