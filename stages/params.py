"""Check every parameter at once, or lay a preset over them: `python -m stages.params [PRESET]`.

Without an argument: reads params.yaml and says in under a second what is wrong with it. With a name: writes the
values of `model/presets/<name>.yaml` into params.yaml, keeping its comments, if the result is valid.
"""

import sys
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from model import plan
from model.families.family import ModelSettings
from model.launching.runtime import RuntimeSettings
from model.settings import PretrainSettings
from stages.curate import CurateSettings
from stages.errors import UserError
from stages.evaluate import EvaluateSettings
from stages.export import ExportSettings
from stages.publish import PublishSettings
from stages.release import ReleaseSettings
from stages.runner import run
from stages.settings import PARAMS, Settings, read_yaml, validate
from stages.shards import ShardsSettings
from stages.snapshot import SnapshotSettings
from stages.tokenizer import TokenizerSettings

SECTIONS: dict[str, type[Settings]] = {
    "snapshot": SnapshotSettings,
    "curate": CurateSettings,
    "tokenizer": TokenizerSettings,
    "shards": ShardsSettings,
    "model": ModelSettings,
    "pretrain": PretrainSettings,
    "runtime": RuntimeSettings,
    "export": ExportSettings,
    "evaluate": EvaluateSettings,
    "release": ReleaseSettings,
    "publish": PublishSettings,
}
PRESETS = Path(__file__).parents[1] / "model" / "presets"


def check(params: Any, where: str) -> None:
    """Check a whole parameter file.

    Raises:
        UserError: A section is missing or unknown, or a value in it is wrong.
    """
    names = set(params) if isinstance(params, dict) else set()
    if names != set(SECTIONS):
        missing, unknown = sorted(set(SECTIONS) - names), sorted(names - set(SECTIONS))
        raise UserError(f"{where}: missing sections {missing}, unknown sections {unknown}; add or remove them")
    checked = {name: validate(name, settings, params[name], where) for name, settings in SECTIONS.items()}
    model, pretrain = checked["model"], checked["pretrain"]
    assert isinstance(model, ModelSettings) and isinstance(pretrain, PretrainSettings)
    plan.check(model, pretrain)


def overlay(base: Any, changes: Any) -> None:
    """Write `changes` over `base`, key by key where both are mappings; any other value replaces the old one."""
    for name, value in changes.items():
        if isinstance(value, dict) and isinstance(base.get(name), dict):
            overlay(base[name], value)
        else:
            base[name] = value


def apply_preset(name: str) -> None:
    """Lay a preset over params.yaml."""
    file = PRESETS / f"{name}.yaml"
    if not file.exists():
        known = sorted(preset.stem for preset in PRESETS.glob("*.yaml"))
        raise UserError(f"'{name}' is no preset; choose one of {known}")
    yaml = YAML()  # keeps comments
    yaml.width = 120
    params = yaml.load(PARAMS)
    overlay(params, read_yaml(file))
    check(_plain(params), f"{PARAMS} with preset '{name}'")
    yaml.dump(params, PARAMS)


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(name): _plain(item) for name, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list) else value


def main() -> None:
    """Check, or apply and check."""
    if len(sys.argv) > 1:
        apply_preset(sys.argv[1])
        print(f"params: '{sys.argv[1]}' is in {PARAMS}")
    check(read_yaml(PARAMS), str(PARAMS))
    print(f"params: {PARAMS} is valid")


if __name__ == "__main__":
    run(__file__, main)
