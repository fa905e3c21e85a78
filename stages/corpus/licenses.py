"""Licenses as SPDX expressions: what a source claims, and whether the allow-list admits it.

Expressions follow SPDX 2.3, annex D. A distribution's older metadata (`License`, `Classifier`) are read as
claims that each leave a set of SPDX identifiers possible; only where all claims together leave exactly one is
there a license. Nothing is guessed: what stays open is refused with a named reason.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache, reduce
from importlib.metadata import PackageMetadata

from license_expression import ExpressionError, Renderable, get_spdx_licensing

from stages.corpus import license_flags
from stages.errors import UserError

NOT_ALLOWED = "license_not_allowed"
MISSING = "license_missing"
UNRECOGNIZED = "license_unrecognized"
AMBIGUOUS = "license_ambiguous"
CONTRADICTORY = "license_contradictory"

SPDX = get_spdx_licensing()
_APACHE = frozenset({"Apache-1.0", "Apache-1.1", "Apache-2.0"})
_BSD = frozenset({"0BSD", "BSD-1-Clause", "BSD-2-Clause", "BSD-3-Clause", "BSD-3-Clause-Clear", "BSD-4-Clause"})

_REFERENCE = re.compile(r"LicenseRef-[A-Za-z0-9.-]+")  # SPDX 2.3, clause 10.1

Claim = tuple[str, frozenset[str] | None]  # the words found, and the identifiers they leave possible, if they are known

# What the free text of a `License` field leaves possible, in lower case; an SPDX expression needs no entry.
_LICENSE_FIELD = {
    "apache": _APACHE,
    "apache 2.0": frozenset({"Apache-2.0"}),
    "apache 2.0 license": frozenset({"Apache-2.0"}),
    "apache license 2.0": frozenset({"Apache-2.0"}),
    "apache license, version 2.0": frozenset({"Apache-2.0"}),
    "apache software license": _APACHE,
    "bsd": _BSD,
    "bsd license": _BSD,
    "isc license": frozenset({"ISC"}),
    "mit license": frozenset({"MIT"}),
    "new bsd": frozenset({"BSD-3-Clause"}),
    "psfl": frozenset({"PSF-2.0"}),
    "the mit license": frozenset({"MIT"}),
}

# What a trove classifier leaves possible (PEP 301).
_CLASSIFIERS = {
    "Apache Software License": _APACHE,
    "BSD License": _BSD,
    "ISC License (ISCL)": frozenset({"ISC"}),
    "MIT License": frozenset({"MIT"}),
    "MIT No Attribution License (MIT-0)": frozenset({"MIT-0"}),
    "Mozilla Public License 2.0 (MPL 2.0)": frozenset({"MPL-2.0"}),
    "Python Software Foundation License": frozenset({"PSF-2.0", "Python-2.0", "Python-2.0.1"}),
    "The Unlicense (Unlicense)": frozenset({"Unlicense"}),
}


@dataclass(frozen=True)
class License:
    """What is known of a text's license: a normalised SPDX expression, or why there is none.

    Attributes:
        expression: The SPDX expression; where `problem` is set, the words that were found instead.
        problem: None, or one of this module's reasons.
    """

    expression: str
    problem: str | None = None


def stated(expression: str | None) -> License:
    """Return the license that an SPDX expression states."""
    if not expression or not expression.strip():
        return License("", MISSING)
    try:
        return License(parsed(expression).render())
    except ExpressionError:
        return License(expression, UNRECOGNIZED)


def of_distribution(metadata: PackageMetadata) -> License:
    """Return the license of an installed distribution from its core metadata.

    `License-Expression` (PEP 639) stands alone. Without it, the `License` field and the classifiers must
    together leave one identifier.
    """
    if "License-Expression" in metadata:
        return stated(metadata["License-Expression"])
    claims = _classifier_claims(metadata)
    field = metadata["License"].strip() if "License" in metadata else ""
    if field and not stated(field).problem:
        return _confirmed(stated(field), claims)
    if field:
        claims.insert(0, (field.splitlines()[0], _LICENSE_FIELD.get(field.lower())))
    return _conclusion(claims)


def allow_list(allow: Iterable[str] | None, deny: Iterable[str] = (), deny_flags: Iterable[str] = ()) -> frozenset[str]:
    """Return the licenses that are admitted, in SPDX's spelling; each with its exception if it has one.

    Args:
        allow: Single licenses; None stands for all that are on SPDX's list.
        deny: Single licenses that are refused, even if `allow` has them.
        deny_flags: Flags of stages.corpus.license_flags whose licenses are refused, even if `allow` has them.

    Raises:
        UserError: An entry is not an SPDX identifier.
    """
    allowed = license_flags.known() if allow is None else _identifiers(allow, "allow")
    forbidden = frozenset(deny_flags)
    return frozenset(
        name for name in allowed - _identifiers(deny, "deny") if forbidden.isdisjoint(license_flags.of_license(name))
    )


def _identifiers(entries: Iterable[str], key: str) -> frozenset[str]:
    identifiers = set()
    for entry in entries:
        terms = stated(entry)
        if terms.problem or isinstance(parsed(entry), SPDX.AND | SPDX.OR):
            raise UserError(
                f"snapshot.licenses.{key} has '{entry}', which is not one SPDX license. "
                "Take the identifier from https://spdx.org/licenses."
            )
        identifiers.add(terms.expression)
    return frozenset(identifiers)


def flags(expression: str) -> tuple[str, ...]:
    """Return what an SPDX expression asks or forbids, of `FLAGS`: by AND all parts' flags, by OR those that all have.

    An OR leaves the choice to who takes the text, so only what every choice has is asked.
    """
    found = _flags(parsed(expression))
    return tuple(flag for flag in license_flags.FLAGS if flag in found)


def _flags(expression: Renderable) -> frozenset[str]:
    if isinstance(expression, SPDX.AND):
        return frozenset[str]().union(*map(_flags, expression.args))
    if isinstance(expression, SPDX.OR):
        return frozenset.intersection(*map(_flags, expression.args))
    return license_flags.of_license(expression.render())


def refusal(terms: License, allowed: frozenset[str]) -> str | None:
    """Return None if the allow-list admits the license, else the reason.

    `AND` asks for every license to be allowed, `OR` for one; `WITH` is allowed only as a whole, because an
    exception may also take rights away.
    """
    if terms.problem:
        return terms.problem
    return None if _admits(parsed(terms.expression), allowed) else NOT_ALLOWED


def _admits(expression: Renderable, allowed: frozenset[str]) -> bool:
    if isinstance(expression, SPDX.AND):
        return all(_admits(part, allowed) for part in expression.args)
    if isinstance(expression, SPDX.OR):
        return any(_admits(part, allowed) for part in expression.args)
    return expression.render() in allowed


@lru_cache(maxsize=1024)
def parsed(expression: str) -> Renderable:
    """Return an SPDX expression as a tree; `LicenseRef-…` names a license that is not on SPDX's list.

    Raises:
        ExpressionError: It is no SPDX expression.
    """
    tree = SPDX.parse(expression, strict=True)
    unknown = [key for key in SPDX.unknown_license_keys(tree) if not _REFERENCE.fullmatch(key)]
    if unknown:
        raise ExpressionError(f"Unknown license key(s): {', '.join(unknown)}")
    return tree


def _classifier_claims(metadata: PackageMetadata) -> list[Claim]:
    names = [
        classifier.split(" :: ")[-1]
        for classifier in metadata.get_all("Classifier") or []
        if classifier.startswith("License :: ")
    ]
    return [(name, _CLASSIFIERS.get(name)) for name in names if name != "OSI Approved"]


def _confirmed(terms: License, claims: list[Claim]) -> License:
    """Return `terms` unless a classifier excludes every identifier that its expression names."""
    named = set(SPDX.license_keys(terms.expression))
    for classifier, claim in claims:
        if claim is not None and not named & claim:
            return License(f"{terms.expression}; {classifier}", CONTRADICTORY)
    return terms


def _conclusion(claims: list[Claim]) -> License:
    """Return the one identifier that all claims leave possible, or why there is none."""
    words = "; ".join(word for word, _ in claims)
    if not claims:
        return License(words, MISSING)
    known = [claim for _, claim in claims if claim is not None]
    if len(known) < len(claims):
        return License(words, UNRECOGNIZED)
    possible = reduce(frozenset.intersection, known)
    if not possible:
        return License(words, CONTRADICTORY)
    return License(min(possible)) if len(possible) == 1 else License(words, AMBIGUOUS)
