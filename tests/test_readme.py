"""README.md is true: every file is listed, and what it tells to run exists."""

import json
import re
import subprocess
from pathlib import Path

import pytest
from pydantic import TypeAdapter
from ruamel.yaml import YAML

from stages.corpus.sources import Source
from stages.params import SECTIONS, check, overlay, presets
from stages.settings import read_yaml

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "README.md").read_text(encoding="utf-8")
PROSE = TEXT.split("## Files")[0]
UNLISTED = {"__init__.py"}


def tracked() -> set[str]:
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()
    return {name for name in names if (ROOT / name).is_file() and Path(name).name not in UNLISTED}


def listed() -> set[str]:
    tree = TEXT.split("```text\n")[1].split("```")[0]
    folder, names = "", set()
    for line in tree.splitlines():
        name, _, remark = line.strip().partition(" ")
        if name.endswith("/"):
            folder = name
            continue
        assert remark.strip(), f"{name} has no remark"
        names.add((folder if line.startswith(" ") else "") + name)
    return names


def test_the_file_tree_lists_every_file_and_no_other() -> None:
    assert listed() == tracked()


def test_every_command_and_preset_exists() -> None:
    modules = set(re.findall(r"python -m ((?:stages|model|evals|release|tests)\.[\w.]+)", TEXT))
    assert modules
    for module in modules:
        path = ROOT / module.replace(".", "/")
        assert path.with_suffix(".py").is_file() or (path / "__main__.py").is_file(), module
    targets = set(re.findall(r"make ([a-z-]+)", TEXT)) - {"it"}
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in targets:
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target
    named = re.findall(r"`(gpu-\w+)`", TEXT) + re.findall(r"python -m stages\.params ([^`#\n]+)", TEXT)
    assert {name for names in named for name in names.split()} <= presets().keys()


@pytest.mark.parametrize("name", sorted(set(re.findall(r"`((?:" + "|".join(SECTIONS) + r")\.[a-z_.]+)`", PROSE))))
def test_every_parameter_it_names_exists(name: str) -> None:
    value = read_yaml(ROOT / "params.yaml")
    for key in name.split("."):
        assert key in value, name
        value = value[key]


BLOCKS = [block.split("```")[0].replace("DIGEST", "a" * 64) for block in TEXT.split("```yaml\n")[1:]]
EXAMPLES = [YAML(typ="safe").load(block) for block in BLOCKS]


def test_its_sources_are_ones_that_the_snapshot_takes() -> None:
    sources = [example["snapshot"]["sources"] for example in EXAMPLES if "snapshot" in example]
    found = [TypeAdapter(dict[str, Source]).validate_json(json.dumps(source)) for source in sources]
    domains = {name: source.domain for each in found for name, source in each.items()}
    assert domains == {"web": "web", "papers": "science"}


def test_its_other_examples_are_valid_parameters() -> None:
    others = [example for example in EXAMPLES if "snapshot" not in example]
    assert {section for example in others for section in example} == {"curate", "pretrain", "runtime"}
    for example in others:
        params = read_yaml(ROOT / "params.yaml")
        overlay(params, example)
        check(params, "README.md")
