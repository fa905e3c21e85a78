import json
from collections import Counter
from itertools import pairwise
from typing import Any, get_args

import hypothesis
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stages.corpus.documents import Document
from stages.curation.personal import NATIONAL_IDS
from stages.curation.pii import Kind, NationalId, Pii
from stages.curation.step import KEEP, Verdict
from tests.shared import shared

KINDS: tuple[Kind, ...] = get_args(Kind)
REGIONS = ("US", "GB", "DE", "FR", "ES", "IT", "CH", "SE", "BR", "AU", "IN")
PRESIDIO = {
    "EMAIL_ADDRESS": "email",
    "IP_ADDRESS": "ip_address",
    "PHONE_NUMBER": "phone",
    "CREDIT_CARD": "credit_card",
    "IBAN_CODE": "iban",
    "US_SSN": "national_id",
}


def settings(policy: str = "mask", **changes: Any) -> Pii:
    values = {
        "policies": dict.fromkeys(KINDS, policy),
        "national_ids": get_args(NationalId),
        "phone_regions": REGIONS,
        "min_base64_entropy": 4.5,
        "min_hex_entropy": 3.0,
        "spare_examples": True,
        **changes,
    }
    return Pii(step="pii", **values)


FIND = settings().finder()


def judge(text: str, policy: str = "mask", **changes: Any) -> Verdict:
    (verdict,) = settings(policy, **changes).build()([Document("", text, "", "", "", "", "")])
    return verdict


def found(text: str) -> list[tuple[str, str]]:
    return [(span.kind, text[span.start : span.end]) for span in FIND(text)]


LETTER = "Write to jane.doe+x@mail.example-bank.co.uk or call 415-844-9759; the server is 96.251.199.116."


def test_a_mask_names_the_kind_and_leaves_the_rest() -> None:
    verdict = judge(LETTER)
    assert verdict.text == "Write to [EMAIL] or call [PHONE]; the server is [IP_ADDRESS]."
    assert verdict.numbers == {"email": 1, "ip_address": 1, "phone": 1}
    assert verdict.tags == ("pii:email", "pii:ip_address", "pii:phone")


def test_a_masked_text_has_nothing_to_mask() -> None:
    assert judge(judge(LETTER).text or "") == KEEP


def test_dropping_goes_before_masking() -> None:
    policies = {**dict.fromkeys(KINDS, "mask"), "phone": "drop"}
    verdict = judge(LETTER, policies=policies)
    assert (verdict.reason, verdict.text) == ("pii_phone", None)


def test_keeping_counts_and_what_is_not_named_is_not_looked_for() -> None:
    verdict = judge(LETTER, policies={"email": "keep"})
    assert (verdict.reason, verdict.text, verdict.numbers) == (None, None, {"email": 1})


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("email", "oneil.j_r@physik.uni-münchen.de"),
        ("ip_address", "2601:0:502:440:1119:806:f740:b3c9"),
        ("credit_card", "4753 9729 1642 5284"),
        ("credit_card", "3723-313632-54623"),
        ("iban", "DE75 5121 0800 1245 1261 99"),
        ("phone", "+41 (0)69 979 80 58"),
        ("national_id", "054-28-6917"),
        ("national_id", "RSSMRA85T10A562S"),
        ("national_id", "131052-308T"),
        ("national_id", "11010519491231002X"),
        ("national_id", "390.533.447-05"),
        ("secret", "AKIA" + "Z7QNTBVKUJ2RWX5D"),
        ("secret", "ghp_" + "x7Kq2vLw9ZrT4mBn8YcD3fGh6JkP1sQaVb5N"),
        ("secret", "xoxb-" + "263594206564-FGqddMF8t08v8N7Oq4i57vs1"),
        ("secret", "-----BEGIN RSA PRIVATE KEY-----\nMIIEow\nIBAAKC\n-----END RSA PRIVATE KEY-----"),
    ],
)
def test_each_kind_is_found_whole(kind: str, text: str) -> None:
    assert found(f"It is {text}, as of May 2020.") == [(kind, text)]


@pytest.mark.parametrize(
    "text",
    [
        "mail joe@example.com or root@localhost, clone git@github.com:a/b.git",
        "listen on 127.0.0.1, 0.0.0.0, 10.11.12.13 or 192.0.2.17, or on 2001:db8:1:2::3:4",
        "call 202-555-0143 or +1 202 555 0143",
        "pay with 4111 1111 1111 1111 or 378282246310005",
        "aws_access_key_id = AKIAIOSFODNN7EXAMPLE",
    ],
)
def test_what_documentation_uses_is_spared_or_not(text: str) -> None:
    assert judge(text) == KEEP
    assert judge(text, spare_examples=False).text not in (None, text)


@pytest.mark.parametrize(
    "text",
    [
        "Version 1.12.3.4 of section 2.10.1.3 replaces 3.11.2; see RFC 2119, 1914-1918 and 2012-07-26 09:15:00.",
        "ISBN 978-0-313-32161-0, ISBN 0-15-107255-8, doi:10.1000/182, arXiv:2005.14165v4",
        "x = 3.14159265358979 * 6.02214076e23 + 0.4111111111111111  # 1,234,567,890 calls",
        "values: [1000, 2000, 3000], 12 345 678, 4408041234567890",
        "std::vector<a::b::c>, @app.route, a @ b.T, logo@2x.png, 12:30:45.678, 00:1A:2B:3C:4D:5E",
        "token = self.get_token_from_header(request); key = 'name_of_the_primary_key_column'",
        "commit 92c14b7ecebb42b383215f1c8823e7f5aa01bb02, uuid 05208266-2374-4008-9c1d-1336402586896",
    ],
)
def test_numbers_and_code_are_left_alone(text: str) -> None:
    assert found(text) == []


def test_a_random_value_is_a_secret_by_its_name() -> None:
    value = "q8Zt4Xv1Rm7Lk2Wp9Ns5Gd3Hy6Bf0Jc"
    assert found(f'API_KEY = "{value}"') == found(f"api_token: {value}") == [("secret", value)]
    assert found(f'digest = "{value}"') == []


def test_ids_without_shape_need_a_word() -> None:
    assert found("Burgerservicenummer: 111222333") == [("national_id", "111222333")]
    assert found("In all: 111222333") == []


def test_every_named_id_has_a_shape() -> None:
    assert set(get_args(NationalId)) == set(NATIONAL_IDS)


_PARTS = st.sampled_from([*"0123456789 -.@:()+", "a@b.de ", "555 ", "AKIA", "1.22.33.4 ", "\n", "phone ", "é"])


@hypothesis.settings(deadline=None)
@given(st.lists(_PARTS, max_size=60).map("".join))
def test_spans_are_apart_and_in_order(text: str) -> None:
    spans = FIND(text)
    assert all(left.end <= right.start for left, right in pairwise(spans))
    assert all(0 <= span.start < span.end <= len(text) for span in spans)


def test_precision_and_recall_on_presidio_sentences() -> None:
    lines = (shared("curation") / "pii" / "presidio_synth.jsonl").read_text().splitlines()
    right, wrong, missed = Counter[str](), Counter[str](), Counter[str]()
    for row in map(json.loads, lines):
        kinds = {(span["start"], span["end"]): PRESIDIO.get(span["type"]) for span in row["spans"]}
        wanted = {(*place, kind) for place, kind in kinds.items() if kind}
        got = {tuple(span) for span in FIND(row["text"])}
        for counter, spans in ((right, got & wanted), (wrong, got - wanted), (missed, wanted - got)):
            counter.update(str(kind) for _, _, kind in spans)
    scores = {
        kind: (right[kind] / (right[kind] + wrong[kind]), right[kind] / (right[kind] + missed[kind]))
        for kind in PRESIDIO.values()
    }
    assert all(precision >= 0.95 and recall >= 0.95 for precision, recall in scores.values()), scores
    assert sum(right.values()) == 210
