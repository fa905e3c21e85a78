"""What a license asks or forbids beyond naming the authors, which a release must admit to."""

from functools import cache
from pathlib import Path

from license_expression import get_license_index

FLAGS = ("copyleft", "share_alike", "non_commercial", "no_derivatives")

_TABLE = Path(__file__).with_name("license_flags.tsv")
_COPYLEFT = frozenset({"Copyleft", "Copyleft Limited"})
_CREATIVE_COMMONS = (("SA", "share_alike"), ("NC", "non_commercial"), ("ND", "no_derivatives"))


def of_license(identifier: str) -> frozenset[str]:
    """Return the flags, of `FLAGS`, of one SPDX license, with its exception if it has one.

    They are read off a Creative Commons name, license_flags.tsv, and ScanCode's LicenseDB as license-expression has
    it; an exception to a license is not taken to lift any.
    """
    name = identifier.split(" WITH ")[0]
    found = set(_table().get(name, ()))
    if _categories().get(name) in _COPYLEFT:
        found.add("copyleft")
    if name.startswith("CC-BY-"):
        parts = name.split("-")
        found.update(flag for part, flag in _CREATIVE_COMMONS if part in parts)
    if "share_alike" in found:
        found.add("copyleft")
    return frozenset(found)


def known() -> frozenset[str]:
    """Return all identifiers of licenses on SPDX's list, without deprecated ones."""
    entries = (entry for entry in get_license_index() if not entry["is_exception"] and not entry["is_deprecated"])
    names = (entry.get("spdx_license_key") for entry in entries)
    return frozenset(name for name in names if name and not name.startswith("LicenseRef-"))


@cache
def _table() -> dict[str, list[str]]:
    lines = _TABLE.read_text(encoding="utf-8").splitlines()
    rows = (line.split("\t") for line in lines if line and not line.startswith("#"))
    return {identifier: named.split(",") for identifier, named, _ in rows}


@cache
def _categories() -> dict[str, str]:
    return {
        identifier: entry["category"]
        for entry in get_license_index()
        for identifier in (entry.get("spdx_license_key"), *entry.get("other_spdx_license_keys", ()))
        if identifier
    }
