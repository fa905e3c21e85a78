"""Settings: params.yaml, validated once at the border. Imports no torch, so a bad parameter fails at once."""

import json
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from stages.errors import UserError

PARAMS = Path("params.yaml")
T = TypeVar("T", bound="Settings")


class Settings(BaseModel):
    """Base of every section: frozen, unknown keys refused, no silent conversion, a docstring under each field."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, use_attribute_docstrings=True)


def read_yaml(path: Path) -> Any:
    """Parse YAML 1.2 as DVC does (`1e-3` is a number there, a string in YAML 1.1).

    Raises:
        UserError: The file is missing or is not YAML.
    """
    try:
        return YAML(typ="safe").load(path)
    except FileNotFoundError:
        raise UserError(f"'{path}' is missing. Run from the repository's root.") from None
    except YAMLError as error:
        raise UserError(f"'{path}' is not YAML: {' '.join(str(error).split())}") from error


def load(section: str, settings: type[T], path: Path = PARAMS) -> T:
    """Return one section of params.yaml.

    Raises:
        UserError: The section or a key is missing, unknown, of the wrong type, or against a rule; each
            fault is named with its path, value and the rule.
    """
    params = read_yaml(path)
    if not isinstance(params, dict) or section not in params:
        raise UserError(f"'{path}' has no section '{section}'. Add it, or take the default from the repository.")
    return validate(section, settings, params[section], str(path))


def validate(section: str, settings: type[T], value: Any, where: str) -> T:
    """Return `value` as `settings`, by JSON's rules: lists may be tuples, but "1" is not 1."""
    try:
        return settings.model_validate_json(json.dumps(value))
    except ValidationError as error:
        faults = "; ".join(_fault(section, fault) for fault in error.errors())
        raise UserError(f"{where}: {faults}") from None


def _fault(section: str, fault: Any) -> str:
    name = ".".join([section, *map(str, fault["loc"])])
    message = fault["msg"].removeprefix("Value error, ")
    if fault["type"] == "extra_forbidden":
        return f"{name} is not a parameter; remove it or correct its name"
    if fault["type"] == "missing":
        return f"{name} is missing; add it"
    return f"{name} = {json.dumps(fault['input'], default=str)[:200]}: {message}"
