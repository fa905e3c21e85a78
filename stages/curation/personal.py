"""Where a text has e-mail and IP addresses, telephone and card numbers, IBANs and national ids.

Shapes find candidates, check digits and number plans decide: those of python-stdnum, phonenumbers and ipaddress.
Most patterns run only around a run of digits: Python's `re` skips to a digit ten times as fast as it tries a pattern
that begins otherwise.

Not found: what is spelt out ("joe at mail dot org"), local telephone numbers without a word about telephones nearby,
and ids without check sum or shape of their own.
"""

import ipaddress
import re
from collections.abc import Callable, Iterable, Iterator
from importlib import import_module
from typing import NamedTuple

import phonenumbers
from stdnum import iban, luhn

Accept = Callable[[re.Match[str]], bool]


class Span(NamedTuple):
    """Characters `start` to `end` of a text, and the kind of what is there."""

    start: int
    end: int
    kind: str


class Rule(NamedTuple):
    """A shape and what decides on a match of it."""

    kind: str
    pattern: re.Pattern[str]
    accept: Accept


class IdShape(NamedTuple):
    """A national id: its shape, the module of stdnum that validates it, and words of which one must be near."""

    shape: str
    module: str | None = None
    near: str = ""


_GATE = re.compile(r"[0-9](?:(?:[ ().\-/]{0,3}[0-9]){5,}|(?<=[A-Za-z][0-9])(?: ?[A-Za-z0-9]){5,40})")
_BEFORE, _AFTER = 24, 16
_NEAR_BEFORE, _NEAR_AFTER = 40, 12

_DOMAIN = re.compile(r"@(?<=[\w%+-]@)(?:[^\W_](?:[\w-]{0,61}[^\W_])?\.)+(?P<top>[^\W\d_]{2,24})\b(?!@)")
_LOCAL = re.compile(r"[\w.%+-]+\Z")
_EXAMPLE_DOMAIN = re.compile(r"(?:.*\.)?(?:example\.(?:com|org|net|edu)|example|test|invalid|localhost|local)", re.I)
_ACCOUNTS = {"git", "svn", "hg", "noreply", "no-reply", "donotreply", "do-not-reply"}
_FILES = {"png", "jpg", "jpeg", "gif", "svg", "webp", "ico", "css", "js", "html", "json", "md", "py", "pdf"}

_IPV4 = re.compile(r"(?<![\w.])[0-9]{1,3}(?:\.[0-9]{1,3}){3}(?!\.?[0-9]|[A-Za-z_])")
_IPV6 = re.compile(r"::?[0-9A-Fa-f]{1,4}::?[0-9A-Fa-f]{1,4}(?:::?[0-9A-Fa-f]{1,4}){0,6}(?:::)?")
_IPV6_GROUPS = 4
_HEXADECIMAL = re.compile(r"[0-9A-Fa-f]+\Z")

_CARD = re.compile(
    r"(?<![\w.+/=])(?:[0-9]{12,19}|[0-9]{4}(?P<gap>[ -])[0-9]{4}(?P=gap)[0-9]{4}(?P=gap)[0-9]{1,7}"
    r"|[0-9]{4}[ -][0-9]{6}[ -][0-9]{4,5})(?!\w|[.-][0-9])"
)
_ISSUERS = re.compile(  # American Express, Diners, JCB, Visa, Maestro, Mastercard, Discover and UnionPay
    r"3[47]\d{13}|3(?:0[0-59]|[689]\d)\d{11}|35\d{14}|(?:1800|2131)\d{11}|4(?:\d{12}|\d{15}|\d{18})"
    r"|(?:50|5[6-8]|6\d)\d{10,17}|5[1-5]\d{14}|2(?:22[1-9]|2[3-9]\d|[3-6]\d\d|7[01]\d|720)\d{12}|62\d{14,17}"
)
_EXAMPLE_CARDS = {  # that payment companies publish for tests
    "4111111111111111",
    "4242424242424242",
    "4012888888881881",
    "4000056655665556",
    "4222222222222",
    "5555555555554444",
    "5105105105105100",
    "2223003122003222",
    "378282246310005",
    "371449635398431",
    "378734493671000",
    "6011111111111117",
    "6011000990139424",
    "30569309025904",
    "38520000023237",
    "3530111333300000",
    "3566002020360505",
}

_IBAN = re.compile(
    r"(?<![A-Za-z0-9])[A-Za-z]{2}[0-9]{2}(?:[A-Za-z0-9]{11,30}|(?: [A-Za-z0-9]{4}){2,7}(?: [A-Za-z0-9]{1,3})?)"
    r"(?![A-Za-z0-9])"
)
_EXAMPLE_IBANS = {"GB29NWBK60161331926819", "GB82WEST12345698765432", "DE89370400440532013000"}

_PHONE = re.compile(
    r"(?<![\w./:+#$€£=*-])(?<![0-9],)(?:[(+]{0,2}[0-9])(?:[ ().-]{0,3}[0-9]){6,16}"
    r"(?P<extension>,? ?(?:x|ext\.? ?)[0-9]{1,6})?(?![\w%/:]|[.,][0-9])"
)
_PHONE_WORDS = re.compile(
    r"phone|\btel\b|telef|\bcall(?:s|ed|ing)?\b|\bfax|\bmobile?\b|\bcell\b|\bdial|\bring\b|messag|whatsapp|\bsms\b"
    r"|\btexted\b|answer|contact|hotline|\boffice\b|\bdesk\b|\breach\b",
    re.IGNORECASE,
)
_GROUPED = re.compile(r"\(?[2-9]\d\d\)?[ .-]{1,2}[2-9]\d\d[ .-]\d{4}|0\d{2,4}[ -]\d{3,4}[ -]?\d{3,4}")
_NO_PHONE_WORDS = re.compile(r"isbn|issn|oclc|doi|\bid\b", re.IGNORECASE)
_NO_PHONE = re.compile(  # dates, years, decimals, and what ends in a digit by itself
    r"(?:1[5-9]|20)\d\d[-./ ]\d\d?[-./ ]\d\d?\b|\d\d?[-./]\d\d?[-./](?:1[5-9]|20)\d\d|(?:1\d|20)\d\d[- ](?:1\d|20)\d\d"
    r"|[+]?\d+\.\d+|.*\D\d"
)
_EXAMPLE_PHONE = re.compile(r"555\D{0,2}(?:01\d\d|5555)(?:\D.*)?\Z|7700\D{0,2}900")

NATIONAL_IDS = {
    "us_ssn": IdShape(r"[0-9]{3}-[0-9]{2}-[0-9]{4}", "us.ssn"),
    "us_itin": IdShape(r"9[0-9]{2}-[0-9]{2}-[0-9]{4}", "us.itin"),
    "gb_nino": IdShape(r"[A-CEGHJ-PR-TW-Z][A-CEGHJ-NPR-TW-Z] ?[0-9]{2} ?[0-9]{2} ?[0-9]{2} ?[A-D]"),
    "br_cpf": IdShape(r"[0-9]{3}\.[0-9]{3}\.[0-9]{3}-[0-9]{2}", "br.cpf"),
    "ca_sin": IdShape(r"[0-9]{3}[ -][0-9]{3}[ -][0-9]{3}", "ca.sin", r"\bSIN\b|insurance"),
    "ch_ahv": IdShape(r"756\.[0-9]{4}\.[0-9]{4}\.[0-9]{2}", "ch.ssn"),
    "cn_ric": IdShape(r"[1-9][0-9]{16}[0-9X]", "cn.ric"),
    "de_idnr": IdShape(r"[1-9][0-9](?: ?[0-9]{3}){3}", "de.idnr", r"steuer|\bid-?nr\b|tax"),
    "dk_cpr": IdShape(r"[0-3][0-9][01][0-9]{3}-[0-9]{4}", "dk.cpr"),
    "es_dni": IdShape(r"[0-9]{8}-?[A-HJ-NP-TV-Z]", "es.dni"),
    "es_nie": IdShape(r"[XYZ]-?[0-9]{7}-?[A-HJ-NP-TV-Z]", "es.nie"),
    "fi_hetu": IdShape(r"[0-3][0-9][01][0-9]{3}[-+A][0-9]{3}[0-9A-FHJ-NPR-Y]", "fi.hetu"),
    "fr_nir": IdShape(r"[12] ?[0-9]{2} ?[01][0-9] ?[0-9][0-9AB] ?[0-9]{3} ?[0-9]{3} ?[0-9]{2}", "fr.nir"),
    "in_aadhaar": IdShape(r"[2-9][0-9]{3} ?[0-9]{4} ?[0-9]{4}", "in_.aadhaar", r"a+dha+r|\bUID"),
    "it_codicefiscale": IdShape(r"[A-Z]{6}[0-9]{2}[A-EHLMPRST][0-9]{2}[A-Z][0-9]{3}[A-Z]", "it.codicefiscale"),
    "kr_rrn": IdShape(r"[0-9]{6}-[1-8][0-9]{6}", "kr.rrn"),
    "mx_curp": IdShape(r"[A-Z]{4}[0-9]{6}[HM][A-Z]{5}[0-9A-Z][0-9]", "mx.curp"),
    "nl_bsn": IdShape(r"[0-9]{9}", "nl.bsn", r"\bBSN\b|burgerservice|sofi"),
    "pl_pesel": IdShape(r"[0-9]{11}", "pl.pesel", r"pesel"),
    "se_personnummer": IdShape(r"(?:19|20)?[0-9]{6}[-+][0-9]{4}", "se.personnummer"),
    "za_idnr": IdShape(r"[0-9]{13}", "za.idnr", r"\bID\b|identity"),
}
"""Shapes by name; those without words have a check sum, a date or a punctuation that is enough."""


def finder(
    kinds: Iterable[str], regions: tuple[str, ...], national_ids: tuple[str, ...], spare_examples: bool
) -> Callable[[str], Iterator[Span]]:
    """Return the function that yields what a text has of these kinds; spans may overlap, the likelier kind first.

    Args:
        kinds: Of `email`, `ip_address`, `credit_card`, `iban`, `national_id` and `phone`.
        regions: ISO 3166 codes of the number plans that telephone numbers without `+` may be of.
        national_ids: Names in `NATIONAL_IDS`.
        spare_examples: Leave out what documentation uses: example.com, networks that are not global, 555-0100.
    """
    shapes = [NATIONAL_IDS[name] for name in national_ids]
    candidates = [
        Rule("ip_address", _IPV4, lambda match: _is_ipv4(match, spare_examples)),
        Rule("credit_card", _CARD, lambda match: _is_card(match, spare_examples)),
        Rule("iban", _IBAN, lambda match: _is_iban(match, spare_examples)),
        _national_ids([shape for shape in shapes if not shape.near]),
        _national_ids([shape for shape in shapes if shape.near]),
        Rule("phone", _PHONE, lambda match: _is_phone(match, regions, spare_examples)),
    ]
    rules = [rule for rule in candidates if rule.kind in kinds]

    def find(text: str) -> Iterator[Span]:
        if "email" in kinds:
            yield from _emails(text, spare_examples)
        if "ip_address" in kinds:
            yield from _ipv6(text, spare_examples)
        if rules:
            yield from _gated(text, rules)

    return find


def _gated(text: str, rules: list[Rule]) -> Iterator[Span]:
    """Apply rules around each run of digits."""
    for window in _GATE.finditer(text):
        start, end = max(0, window.start() - _BEFORE), window.end() + _AFTER
        for kind, pattern, accept in rules:
            for match in pattern.finditer(text, start, end):
                if accept(match):
                    yield Span(*match.span(), kind)


def _near(match: re.Match[str], words: re.Pattern[str]) -> bool:
    text, (start, end) = match.string, match.span()
    return bool(words.search(text[max(0, start - _NEAR_BEFORE) : start]) or words.search(text[end : end + _NEAR_AFTER]))


def _emails(text: str, spare_examples: bool) -> Iterator[Span]:
    for match in _DOMAIN.finditer(text):
        local = _LOCAL.search(text, max(0, match.start() - 64), match.start())
        if not local or match["top"].lower() in _FILES:
            continue
        name = local.group().lstrip(".%+-")
        example = _EXAMPLE_DOMAIN.fullmatch(match.group()[1:]) or name.lower() in _ACCOUNTS
        if name and not (spare_examples and example):
            yield Span(match.start() - len(name), match.end(), "email")


def _is_ipv4(match: re.Match[str], spare_examples: bool) -> bool:
    octets = match.group().split(".")
    if sum(len(octet) > 1 for octet in octets) < 2:  # a version, or a section's number
        return False
    return _is_address(match.group(), spare_examples)


def _ipv6(text: str, spare_examples: bool) -> Iterator[Span]:
    for match in _IPV6.finditer(text):
        first = _HEXADECIMAL.search(text, max(0, match.start() - 5), match.start())
        start = first.start() if first else match.start()
        address = text[start : match.end()]
        groups = sum(map(bool, address.split(":")))
        whole = not text[max(0, start - 1) : start].isalnum() and not text[match.end() : match.end() + 1].isalnum()
        if whole and groups >= _IPV6_GROUPS and _is_address(address, spare_examples):
            yield Span(start, match.end(), "ip_address")


def _is_address(text: str, spare_examples: bool) -> bool:
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return False
    return address.is_global or not spare_examples


def _is_card(match: re.Match[str], spare_examples: bool) -> bool:
    digits = re.sub(r"[ -]", "", match.group())
    if not _ISSUERS.fullmatch(digits) or not luhn.is_valid(digits):
        return False
    return not (spare_examples and digits in _EXAMPLE_CARDS)


def _is_iban(match: re.Match[str], spare_examples: bool) -> bool:
    number = iban.compact(match.group())
    return bool(iban.is_valid(number)) and not (spare_examples and number in _EXAMPLE_IBANS)


def _national_ids(shapes: list[IdShape]) -> Rule:
    """Return one rule for all shapes, because one pattern is tried faster than many."""
    compiled = [(re.compile(shape.shape), re.compile(shape.near, re.IGNORECASE), _validator(shape)) for shape in shapes]
    any_near = re.compile("|".join(shape.near for shape in shapes), re.IGNORECASE)
    any_shape = "|".join(shape.shape for shape in shapes) or r"\Z\A"

    def accept(match: re.Match[str]) -> bool:
        number = match.group()
        return _near(match, any_near) and any(
            shape.fullmatch(number) and _near(match, near) and valid(number) for shape, near, valid in compiled
        )

    return Rule("national_id", re.compile(rf"(?<![\w.-])(?:{any_shape})(?![\w-]|\.[0-9])"), accept)


def _validator(shape: IdShape) -> Callable[[str], bool]:
    if shape.module is None:
        return lambda _: True
    valid: Callable[[str], bool] = import_module(f"stdnum.{shape.module}").is_valid
    return valid


def _is_phone(match: re.Match[str], regions: tuple[str, ...], spare_examples: bool) -> bool:
    number = match.group()[: match.start("extension") - match.start()] if match["extension"] else match.group()
    if (
        _NO_PHONE.fullmatch(number)
        or _near(match, _NO_PHONE_WORDS)
        or (spare_examples and _EXAMPLE_PHONE.search(number))
    ):
        return False
    if number.startswith("+"):
        return _in_plan(number, None, phonenumbers.is_possible_number)
    if _near(match, _PHONE_WORDS):
        return any(_in_plan(number, region, phonenumbers.is_possible_number) for region in regions)
    if not _GROUPED.fullmatch(number):
        return False
    return any(_in_plan(number, region, phonenumbers.is_valid_number) for region in regions)


def _in_plan(number: str, region: str | None, accept: Callable[[phonenumbers.PhoneNumber], bool]) -> bool:
    try:
        return accept(phonenumbers.parse(number, region))
    except phonenumbers.NumberParseException:
        return False
