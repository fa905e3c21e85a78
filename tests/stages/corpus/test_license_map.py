import pytest

from stages.corpus.license_map import of_column, of_words
from stages.corpus.licenses import MISSING, UNRECOGNIZED, License, allow_list, flags, refusal, stated
from stages.corpus.sources import GitSource
from stages.errors import UserError
from stages.settings import validate
from tests.shared import shared

LINK = "https://creativecommons.org/licenses"


@pytest.mark.parametrize(
    ("words", "expression"),
    [
        ("mit", "MIT"),
        ("MIT License", "MIT"),
        ("CC BY 4.0", "CC-BY-4.0"),
        ("CC BY-NC-SA 3.0", "CC-BY-NC-SA-3.0"),
        ("Public Domain", "LicenseRef-scancode-public-domain"),
        (f"Creative Commons - Attribution - {LINK}/by/4.0/", "CC-BY-4.0"),
        (f"Creative Commons - Attribution Share-Alike - {LINK}/by-sa/2.5/", "CC-BY-SA-2.5"),
        (f"{LINK}/by/3.0/us/", "CC-BY-3.0-US"),
        (f"{LINK}/by/4.0/legalcode", "CC-BY-4.0"),
        (
            "Creative Commons Zero - Public Domain - https://creativecommons.org/publicdomain/zero/1.0/",
            "CC0-1.0",
        ),
        ("Creative Commons Attribution-NonCommercial-ShareAlike 4.0 International", "CC-BY-NC-SA-4.0"),
        ("Attribution-NC 4.0", "CC-BY-NC-4.0"),
        ("Attribution-NC-SA 4.0 International", "CC-BY-NC-SA-4.0"),
        ("Attribution-NonCommercial-No Derivative Works 3.0 Unported", "CC-BY-NC-ND-3.0"),
        (f"CC BY-NC 4.0 ({LINK}/by-nc/4.0/)", "CC-BY-NC-4.0"),
        ("CC0 https://creativecommons.org/publicdomain/zero/1.0/", "CC0-1.0"),
        ("Apache 2 License - https://www.apache.org/licenses/LICENSE-2.0", "Apache-2.0"),
        ("Community Data License Agreement - Permissive 1.0 - https://cdla.dev/", "CDLA-Permissive-1.0"),
        ("CC0-1.0 OR LicenseRef-PD", "CC0-1.0 OR LicenseRef-PD"),
    ],
)
def test_a_name_of_one_license_is_its_expression(words: str, expression: str) -> None:
    assert of_words(words) == License(expression)


@pytest.mark.parametrize(
    "words",
    [
        "BSD License",
        "CC BY",
        "GNU General Public License",
        "MIT AND",
        f"{LINK}/by-sa/3.0/zz/",
        f"Creative Commons - Attribution Share-Alike - {LINK}/by/4.0/",
        f"All rights reserved except what is under {LINK}/by/4.0/",
        f"{LINK}/by/4.0/ {LINK}/by-nc/4.0/",
        f"{LINK}/by/4.0/ {LINK}/by-nc/",
        "Attribution NonCommerical 4.0",
        "Attribution for non profit use 4.0",
        "Creative Commons Attribution-NonComercial-ShareAlike 4.0 International",
        f"CC BY-NC 4.0 {LINK}/by/4.0/",
        f"CC BY 3.0 {LINK}/by/4.0/",
        f"MIT License {LINK}/by-nc/4.0/",
        f"MIT License {LINK}/by-nc/",
        f"apache license 2.0 - {LINK}/by-nc-nd/4.0/",
    ],
)
def test_what_leaves_a_choice_is_refused_with_its_words(words: str) -> None:
    assert of_words(words) == License(words, UNRECOGNIZED)


def test_an_empty_cell_is_missing_and_a_number_is_an_error() -> None:
    assert of_column(None, "here").problem == of_column(" ", "here").problem == MISSING
    with pytest.raises(UserError, match="here: 4 is not the name of a license"):
        of_column(4, "here")


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("MIT AND CC-BY-4.0", ()),
        ("CC-BY-SA-4.0", ("copyleft", "share_alike")),
        ("CC-BY-NC-ND-4.0", ("non_commercial", "no_derivatives")),
        ("GPL-3.0-only WITH Classpath-exception-2.0", ("copyleft",)),
        ("ODbL-1.0 AND CC-BY-NC-4.0", ("copyleft", "share_alike", "non_commercial")),
        ("MIT OR GPL-2.0-only", ()),
        ("CC-BY-SA-3.0 OR GFDL-1.3-or-later", ("copyleft", "share_alike")),
        ("NCGL-UK-2.0 AND SSPL-1.0", ("copyleft", "non_commercial")),
    ],
)
def test_flags_say_what_every_choice_asks(expression: str, expected: tuple[str, ...]) -> None:
    assert flags(expression) == expected


def test_a_denied_license_is_refused_though_it_is_allowed() -> None:
    allowed = allow_list(None, deny=["GPL-3.0-only"], deny_flags=["non_commercial"])
    verdicts = {
        name: refusal(stated(name), allowed) for name in ("MIT", "GPL-3.0-only", "CC-BY-NC-4.0", "CC-BY-SA-4.0")
    }
    assert [name for name, reason in verdicts.items() if reason is None] == ["MIT", "CC-BY-SA-4.0"]
    assert allow_list(["MIT", "ISC"], deny=["isc"]) == {"MIT"}


def test_a_reference_to_a_license_of_ones_own_must_be_allowed_by_name() -> None:
    assert refusal(stated("LicenseRef-PD-US"), allow_list(None)) is not None
    assert refusal(stated("LicenseRef-PD-US"), allow_list(["LicenseRef-PD-US"])) is None


def test_every_license_of_the_shared_corpus_is_known() -> None:
    table = (shared("corpus") / "SOURCES.tsv").read_text().splitlines()
    names = {line.split("\t")[4] for line in table[1:]}
    assert names and not [name for name in names if of_words(name).problem]


def test_a_license_holds_for_the_revision_that_it_was_read_at() -> None:
    source = {"kind": "git", "domain": "books", "repository": "https://example.org/book.git", "license": "CC-BY-4.0"}
    held = {**source, "commit": "a" * 40, "license_revision": "a" * 40, "license_note": "later CC-BY-NC-SA-4.0"}
    assert validate("s", GitSource, held, "p").license_note == "later CC-BY-NC-SA-4.0"
    with pytest.raises(UserError, match=r"the license was read at 'a{40}', but the source is pinned to 'b{40}'"):
        validate("s", GitSource, {**held, "commit": "b" * 40}, "p")
    with pytest.raises(UserError, match=r"the license was read at None, but the source is pinned to 'a{40}'"):
        validate("s", GitSource, {**held, "license_revision": None}, "p")
