"""Check every parameter at once, or lay presets over them: `python -m stages.params [PRESET ...]`.

Without an argument: reads params.yaml and says in under a second what is wrong with it. With names: writes the values
of these presets (model/presets) into params.yaml, one after the other, keeping its comments, if each section of the
result is valid. What then is wrong between sections, such as a budget of fewer steps than the warm-up, is said too.
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
        UserError: A section is missing or unknown, a value in it is wrong, or two sections contradict each other.
    """
    checked = check_sections(params, where)
    model, pretrain = checked["model"], checked["pretrain"]
    assert isinstance(model, ModelSettings) and isinstance(pretrain, PretrainSettings)
    plan.check(model, pretrain)


def check_sections(params: Any, where: str) -> dict[str, Settings]:
    """Check each section by itself, and return them.

    Raises:
        UserError: A section is missing or unknown, or a value in it is wrong.
    """
    names = set(params) if isinstance(params, dict) else set()
    if names != set(SECTIONS):
        missing, unknown = sorted(set(SECTIONS) - names), sorted(names - set(SECTIONS))
        raise UserError(f"{where}: missing sections {missing}, unknown sections {unknown}; add or remove them")
    return {name: validate(name, settings, params[name], where) for name, settings in SECTIONS.items()}


def overlay(base: Any, changes: Any) -> None:
    """Write `changes` over `base`, key by key where both are mappings; any other value replaces the old one.

    A mapping that names its family replaces the old one whole: what belongs to another family does not stay.
    """
    for name, value in changes.items():
        if isinstance(value, dict) and isinstance(base.get(name), dict) and "family" not in value:
            overlay(base[name], value)
        else:
            base[name] = value


def presets() -> dict[str, Any]:
    """Return the values of every preset by name: runs, each a file, and models, a file for each family."""
    runs = {file.stem: read_yaml(file) for file in sorted(PRESETS.glob("*.yaml"))}
    families = [read_yaml(file) for file in sorted((PRESETS / "models").glob("*.yaml"))]
    return {**runs, **{name: values for family in families for name, values in family.items()}}


def apply_presets(names: list[str]) -> None:
    """Lay presets over params.yaml, one after the other.

    Raises:
        UserError: A name is not known, or a section would be wrong; nothing is written then.
    """
    known = presets()
    if unknown := [name for name in names if name not in known]:
        raise UserError(f"{unknown} are no presets; choose from {', '.join(known)}")
    yaml = YAML()  # keeps comments
    yaml.preserve_quotes = True
    yaml.width = 4096  # wraps no line
    yaml.indent(mapping=2, sequence=4, offset=2)  # as the file has it
    yaml.representer.add_representer(type(None), lambda to, _: to.represent_scalar("tag:yaml.org,2002:null", "null"))
    params = yaml.load(PARAMS)
    for name in names:
        overlay(params, known[name])
    check_sections(_plain(params), f"{PARAMS} with {', '.join(names)}")
    yaml.dump(params, PARAMS)


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(name): _plain(item) for name, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list) else value


def main() -> None:
    """Check, or apply and check."""
    if names := sys.argv[1:]:
        apply_presets(names)
        print(f"params: {', '.join(names)} in {PARAMS}")
    check(read_yaml(PARAMS), str(PARAMS))
    print(f"params: {PARAMS} is valid")


if __name__ == "__main__":
    run(__file__, main)
