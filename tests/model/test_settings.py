import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from model.counts import counts
from model.families.family import ModelSettings
from model.plan import check as check_plan
from model.settings import PretrainSettings
from stages.errors import UserError
from stages.params import PRESETS, check, overlay
from stages.settings import PARAMS, read_yaml, validate

ROOT = Path(__file__).parents[2]
PARAMS_FILE = ROOT / PARAMS
PRESET_NAMES = sorted(file.stem for file in PRESETS.glob("*.yaml"))


def default_params() -> dict[str, Any]:
    return dict(read_yaml(PARAMS_FILE))


def changed(section: str, **values: Any) -> dict[str, Any]:
    params = default_params()
    overlay(params[section], values)
    return params


def test_the_default_parameters_are_valid() -> None:
    check(default_params(), "params.yaml")


@pytest.mark.parametrize(
    ("section", "values", "message"),
    [
        (
            "pretrain",
            {"phases": {"main": {"blend": {"code": 0.5, "prose": 0.4}}}},
            r"pretrain\.phases\.main\.blend = .*sum to 0.9; make them sum to 1",
        ),
        (
            "pretrain",
            {"phases": {"main": {"targets": {"code": 5}}}},
            r"pretrain\.phases\.main = .*: give either blend, the share of each domain, or targets, its tokens",
        ),
        ("pretrain", {"phases": {"main": {"blend": None}}}, "give either blend"),
        (
            "pretrain",
            {"phases": {"main": {"blend": None, "targets": {"code": 5, "prose": 2}}}},
            "tokens = 1843200, but the targets sum to 7; leave tokens out, or correct one",
        ),
        (
            "pretrain",
            {"phases": {"main": {"tokens": None, "blend": None, "targets": {"code": 0}}}},
            r"pretrain\.phases\.main\.targets\.code = 0: Input should be greater than 0",
        ),
        ("pretrain", {"phases": {"main": {"tokens": None}}}, "tokens is missing, of which blend gives the shares"),
        ("pretrain", {"max_epochs": {"default": 0}}, r"pretrain\.max_epochs\.default = 0: .* greater than 0"),
        ("pretrain", {"learning_rate": 1e-3}, r"pretrain\.learning_rate is not a parameter"),
        ("pretrain", {"eval_interval": "many"}, r'pretrain\.eval_interval = "many": .*integer'),
        (
            "pretrain",
            {"phases": {"main": {"global_batch_size": 7}}},
            r"global_batch_size 7 is not divisible by .* 4; choose a multiple",
        ),
        ("runtime", {"launch": {"kind": "torchrun", "nodes": 2, "endpoint": "here"}}, r"endpoint.*must be host:port"),
        ("model", {"num_query_groups": 3}, r"num_attention_heads 4 is not divisible by num_query_groups 3"),
        ("model", {"num_query_groups": 1}, r"model\.num_query_groups = 1 is not divisible by .* = 2"),
        ("tokenizer", {"vocab_size": 4096.5}, r"tokenizer\.vocab_size = 4096\.5: .*integer"),
    ],
)
def test_a_bad_parameter_is_refused_with_its_name_value_and_rule(
    section: str, values: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        check(changed(section, **values), "params.yaml")


def test_a_missing_and_an_unknown_section_are_named() -> None:
    params = default_params()
    params["modle"] = params.pop("model")
    with pytest.raises(UserError, match=r"missing sections \['model'\], unknown sections \['modle'\]"):
        check(params, "params.yaml")


def test_a_parameter_error_comes_in_under_a_second_and_without_torch(tmp_path: Path) -> None:
    text = PARAMS_FILE.read_text().replace("eval_interval: 150", "eval_interval: -150")
    (tmp_path / "params.yaml").write_text(text)
    program = (
        "import sys; from stages import params\n"
        "try: params.check(params.read_yaml(params.PARAMS), 'params.yaml')\n"
        "except params.UserError as error: print(error)\n"
        "print(sorted({'torch', 'transformers', 'megatron', 'lm_eval', 'datasets'} & set(sys.modules)))"
    )
    started = time.perf_counter()
    ended = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, env={"PYTHONPATH": str(ROOT)}, capture_output=True, text=True
    )
    seconds = time.perf_counter() - started
    message, heavy = ended.stdout.splitlines()
    assert message == "params.yaml: pretrain.eval_interval = -150: Input should be greater than 0"
    assert heavy == "[]"
    assert seconds < 3, "a second on an idle machine; the limit leaves room for a busy one"


@pytest.mark.parametrize("preset", PRESET_NAMES)
def test_a_preset_is_valid_and_instantiates_on_the_meta_device(preset: str) -> None:
    params = default_params()
    overlay(params, read_yaml(PRESETS / f"{preset}.yaml"))
    check(params, preset)
    model = validate("model", ModelSettings, params["model"], preset)
    check_plan(model, validate("pretrain", PretrainSettings, params["pretrain"], preset))
    size = counts(model, params["tokenizer"]["vocab_size"]).total
    promised = {"toy": 0.11e6, "gpu-120m": 120e6, "gpu-1700m": 1.7e9}[preset]
    assert size == pytest.approx(promised, rel=0.05)
