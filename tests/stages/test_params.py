import difflib
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest

from stages import params
from stages.errors import UserError
from stages.settings import PARAMS, read_yaml

DEFAULT = Path(__file__).parents[2] / PARAMS


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a copy of params.yaml in the working directory."""
    monkeypatch.chdir(tmp_path)
    return Path(shutil.copy(DEFAULT, tmp_path))


def command(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    monkeypatch.setattr(sys, "argv", ["params", *names])
    params.main()


def test_a_mapping_that_names_its_family_replaces_the_old_one_whole() -> None:
    base: dict[str, Any] = {"model": {"family": "mixtral", "moe": {"num_experts": 8}}, "pretrain": {"a": 1, "b": 2}}
    params.overlay(base, {"model": {"family": "llama"}, "pretrain": {"b": 3}})
    assert base == {"model": {"family": "llama"}, "pretrain": {"a": 1, "b": 3}}


def test_a_mapping_without_a_family_changes_only_what_it_names() -> None:
    base: dict[str, Any] = {"model": {"family": "llama", "num_layers": 3, "seq_length": 512}}
    params.overlay(base, {"model": {"num_layers": 4}})
    assert base == {"model": {"family": "llama", "num_layers": 4, "seq_length": 512}}


def test_presets_are_laid_one_after_the_other(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    command(monkeypatch, "gpu-1700m", "llama-3.1-8b")
    values = read_yaml(here)
    assert values["pretrain"]["layout"]["data_parallel_size"] == 4, "from the run"
    assert values["model"] == params.presets()["llama-3.1-8b"]["model"], "from the model"


def test_nothing_but_the_preset_and_blank_lines_changes(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    command(monkeypatch, "llama-4m")
    changed = [
        line
        for line in difflib.ndiff(DEFAULT.read_text().splitlines(), here.read_text().splitlines())
        if line[0] != " "
    ]
    omitted = ("rotary_base", "layernorm_epsilon", "init_method_std", "make_vocab_size_divisible_by")
    assert changed, "defaults are not written"
    assert all(line.strip() == "-" or line.split()[1].rstrip(":") in omitted for line in changed)


def test_a_preset_is_written_and_what_it_contradicts_is_said(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match=r"warmup_steps 90 .* must be below the 57 steps of the phases"):
        command(monkeypatch, "llama-3.1-8b")
    assert read_yaml(here)["model"]["hidden_size"] == 4096


def test_an_unknown_preset_is_refused_and_the_known_are_named(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match=r"\['llama-9b'\] are no presets; choose from gpu-120m, .*llama-3\.1-8b"):
        command(monkeypatch, "gpu-120m", "llama-9b")
    assert here.read_bytes() == DEFAULT.read_bytes()


def test_a_section_that_is_wrong_is_not_written(here: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "narrow.yaml").write_text("model: {num_query_groups: 3}\n")
    monkeypatch.setattr(params, "PRESETS", tmp_path)
    before = here.read_bytes()
    with pytest.raises(UserError, match=r"params\.yaml with narrow: .*num_attention_heads 4 is not divisible by"):
        command(monkeypatch, "narrow")
    assert here.read_bytes() == before
