from importlib.metadata import PathDistribution
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stages.corpus.licenses import (
    AMBIGUOUS,
    CONTRADICTORY,
    MISSING,
    NOT_ALLOWED,
    UNRECOGNIZED,
    License,
    allow_list,
    of_distribution,
    refusal,
    stated,
)
from stages.errors import UserError

IDENTIFIERS = ["MIT", "Apache-2.0", "BSD-3-Clause", "GPL-3.0-only", "MPL-2.0"]
allow_lists = st.frozensets(st.sampled_from(IDENTIFIERS))
identifiers = st.sampled_from(IDENTIFIERS)


def admitted(expression: str, allowed: frozenset[str]) -> bool:
    return refusal(stated(expression), allowed) is None


@given(identifiers, identifiers, allow_lists)
def test_and_needs_both_and_or_needs_one(left: str, right: str, allowed: frozenset[str]) -> None:
    assert admitted(f"{left} AND {right}", allowed) == (left in allowed and right in allowed)
    assert admitted(f"{left} OR {right}", allowed) == (left in allowed or right in allowed)


def test_an_exception_is_admitted_only_as_a_whole() -> None:
    expression = "Apache-2.0 WITH LLVM-exception"
    assert not admitted(expression, allow_list(["Apache-2.0"]))
    assert admitted(expression, allow_list([expression]))


def test_parentheses_bind() -> None:
    assert not admitted("MPL-2.0 AND (MIT OR Apache-2.0)", frozenset({"MIT", "Apache-2.0"}))
    assert admitted("MPL-2.0 AND (MIT OR GPL-3.0-only)", frozenset({"MIT", "MPL-2.0"}))


def test_spelling_is_normalised() -> None:
    assert stated("mit and apache-2.0") == License("MIT AND Apache-2.0")


@pytest.mark.parametrize(
    ("expression", "reason"),
    [(None, MISSING), (" ", MISSING), ("BSD", UNRECOGNIZED), ("MIT AND", UNRECOGNIZED), ("GPL-2.0-only", NOT_ALLOWED)],
)
def test_what_is_not_admitted_has_a_named_reason(expression: str | None, reason: str) -> None:
    assert refusal(stated(expression), frozenset({"MIT"})) == reason


@pytest.mark.parametrize(
    ("metadata", "expected"),
    [
        ("License-Expression: mit\nLicense: BSD", License("MIT")),
        ("License: Apache 2.0\nClassifier: License :: OSI Approved :: Apache Software License", License("Apache-2.0")),
        ("License: BSD-3-Clause\nClassifier: License :: OSI Approved :: BSD License", License("BSD-3-Clause")),
        ("Classifier: License :: OSI Approved :: MIT License", License("MIT")),
        ("License: MIT\nClassifier: License :: OSI Approved", License("MIT")),
        ("License: BSD", License("BSD", AMBIGUOUS)),
        ("Classifier: License :: OSI Approved :: BSD License", License("BSD License", AMBIGUOUS)),
        (
            "License: Apache 2.0\nClassifier: License :: OSI Approved :: BSD License",
            License("Apache 2.0; BSD License", CONTRADICTORY),
        ),
        (
            "License: MIT\nClassifier: License :: OSI Approved :: BSD License",
            License("MIT; BSD License", CONTRADICTORY),
        ),
        ("License: Dual License", License("Dual License", UNRECOGNIZED)),
        ("Summary: nothing said", License("", MISSING)),
    ],
)
def test_a_distribution_has_the_one_license_that_its_metadata_leave(
    metadata: str, expected: License, tmp_path: Path
) -> None:
    (tmp_path / "METADATA").write_text(f"Metadata-Version: 2.4\nName: toy\n{metadata}\n")
    assert of_distribution(PathDistribution(tmp_path).metadata) == expected


@pytest.mark.parametrize("entry", ["BSD", "MIT OR Apache-2.0", ""])
def test_an_allow_list_takes_single_licenses_only(entry: str) -> None:
    with pytest.raises(UserError, match=r"snapshot\.licenses\.allow"):
        allow_list([entry])
