import json
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from stages.corpus.documents import text_digest
from stages.curation.chain import BuiltChain, Chain, Event
from stages.curation.step import KEEP, Verdict, each_text
from tests.stages.curation.world import chain, document

LENGTH = {"step": "length", "min_characters": 3, "max_characters": 40}
REPEATED = {"step": "repeated_lines", "max_fraction": 0.3}


def shout(text: str) -> Verdict:
    """Return an edit with a tag, or nothing for a text that is in capitals already."""
    return Verdict(text=text.upper(), tags=("shouted",)) if text != text.upper() else KEEP


@given(st.lists(st.text(alphabet="a\n", max_size=50), max_size=12), st.integers(0, 12))
def test_a_batch_gives_what_its_parts_give(texts: list[str], cut: int) -> None:
    built = chain(LENGTH, REPEATED).build()
    documents = [document(text) for text in texts]
    assert built(documents) == built(documents[:cut]) + built(documents[cut:])


def test_the_first_step_that_drops_gives_the_reason_and_its_numbers() -> None:
    short, twice = chain(LENGTH, REPEATED).build()([document("a"), document("ab\nab\n")])
    assert short.trail == [Event("length", "too_short", {"characters": 1}, False, ())]
    assert twice.trail == [Event("repeated_lines", "repeated_lines", {"repeated_lines": 0.5}, False, ())]


def test_later_steps_see_the_edited_text_and_the_document_keeps_its_id() -> None:
    before = document("\ufb01ne")  # a ligature of three bytes
    (outcome,) = BuiltChain([("shout", each_text(shout)), ("again", each_text(shout))])([before])
    assert (outcome.document.text, outcome.document.id) == ("FINE", before.id)
    assert outcome.document.sha256 == text_digest("FINE")
    assert outcome.trail == [Event("shout", None, {}, True, ("shouted",), -1)]
    assert outcome.reason is None


def test_a_tag_drops_where_the_chain_says_so() -> None:
    steps = [("shout", each_text(shout)), ("again", each_text(shout))]
    (outcome,) = BuiltChain(steps, ["shouted"])([document("quiet")])
    assert [(event.step, event.reason) for event in outcome.trail] == [("shout", "tag:shouted")]


def test_a_step_that_loses_a_document_is_a_defect() -> None:
    with pytest.raises(ValueError, match="zip"):
        BuiltChain([("loses", lambda documents: [KEEP] * (len(documents) - 1))])([document("a"), document("b")])


@pytest.mark.parametrize("steps", [[{"step": "lenght"}], [{**LENGTH, "max_characters": 0}], [{"max_fraction": 0.3}]])
def test_a_step_that_is_unknown_or_wrong_is_refused(steps: list[dict[str, object]]) -> None:
    with pytest.raises(ValidationError, match="step"):
        Chain.model_validate_json(json.dumps({"steps": steps}))


def test_settings_are_checked_without_the_libraries_that_run_them() -> None:
    heavy = {"numpy", "pyarrow", "torch", "scipy", "ray"}
    code = (
        f"import sys, stages.curation.chain, stages.curation.minhash, stages.curation.engine, stages.curation.split\n\
print({heavy!r} & set(sys.modules))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "set()"
