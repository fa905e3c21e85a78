from typing import Any

import hypothesis
import pytest
from ftfy.badness import MOJIBAKE_CATEGORIES, is_bad
from hypothesis import given
from hypothesis import strategies as st

from stages.curation.step import KEEP, Verdict
from stages.curation.unicode import SUSPECT_LINE, Unicode
from tests.stages.curation.documents import document

ENCODINGS = st.sampled_from(["latin-1", "cp1252", "cp1251", "cp437", "macroman"])


def judge(text: str, **changes: Any) -> Verdict:
    settings = Unicode(step="unicode", **{"mojibake": True, "controls": True, "normalization": "NFC", **changes})
    (verdict,) = settings.build()([document(text)])
    return verdict


def mojibake(text: str, encoding: str) -> str:
    return text.encode().decode(encoding, errors="replace")


@pytest.mark.parametrize("encoding", ["cp1252", "latin-1", "macroman"])
def test_utf8_that_was_read_as_something_else_is_read_again(encoding: str) -> None:
    right = "Die Übergröße der Café-Stühle überraschte: “Björn“."
    verdict = judge(f"first line\n{mojibake(right, encoding)}\nlast line")
    assert verdict.text == f"first line\n{right}\nlast line"
    assert verdict.numbers == {"mojibake_lines": 1}


def test_control_characters_and_byte_order_marks_go() -> None:
    verdict = judge("\ufeffa\x00b\x07 \x1b[1;31mred\x1b[0m\tc\r\n\x0cd")
    assert verdict.text == "ab red\tc\r\n\x0cd"
    assert verdict.numbers == {"control_characters": 14}


def test_letters_are_composed_if_asked() -> None:
    assert judge("Ame\u0301lie").text == "Am\u00e9lie"
    assert judge("Ame\u0301lie", normalization=None) == KEEP


@pytest.mark.parametrize(
    "text",
    [
        "“Smart” quotes, ﬁne ligatures, \uff46ull-width letters, 10³ and ½ are text; so is é.\r\nAnd &eacute; &amp; é.",
        "naïve façade, señor, Ærøskøbing, dvojznačnosť, Größe, ΑΒΓ, Привет, мир! 你好。 नमस्ते 👩‍💻",
        "s = '\\xc3\\xa9'  # é as UTF-8",
        "if a ≤ b ÷ c: print('→ ±°')",
    ],
)
def test_good_text_and_code_are_left_alone(text: str) -> None:
    assert judge(text) == KEEP


def test_each_repair_can_be_left_out() -> None:
    text = "caf\u00c3\u00a9\x00"
    assert judge(text, mojibake=False).text == "caf\u00c3\u00a9"
    assert judge(text, controls=False).text == "caf\u00e9\x00"
    assert judge(text, mojibake=False, controls=False) == KEEP


def test_a_text_of_nothing_but_controls_is_dropped() -> None:
    assert judge("\ufeff\x00").reason == "empty"


@hypothesis.settings(deadline=None)
@given(st.lists(st.tuples(st.text(st.characters(codec="utf-8"), max_size=20), ENCODINGS), max_size=4))
def test_a_repaired_text_is_not_repaired_again(parts: list[tuple[str, str]]) -> None:
    text = "\n".join(mojibake(part, encoding) for part, encoding in parts)
    repaired = judge(text).text
    assert repaired is None or judge(repaired) == KEEP


@hypothesis.settings(deadline=None)
@given(st.text(st.characters(max_codepoint=0x7E, min_codepoint=0x20)))
def test_printable_ascii_is_left_alone(text: str) -> None:
    assert judge(text) == KEEP


@hypothesis.settings(deadline=None)
@given(
    st.text(
        st.sampled_from(sorted({*"".join(MOJIBAKE_CATEGORIES.values()), *"aZ $.,ВГРСЂБвў√±≈°\u201aÄìâàβ€Ό人"})),
        max_size=8,
    )
)
def test_what_ftfy_finds_bad_is_suspect(text: str) -> None:
    assert not is_bad(text) or SUSPECT_LINE.search(text)
