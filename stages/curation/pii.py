"""Personal data and secrets: what is found is masked, drops the document, or is only counted, by policy.

A mask is the kind's name in capitals and brackets, such as `[EMAIL]`: it is plain text, which no tokenizer takes for
a control token of its own (as it would `<|email|>`), keeps sentences whole, and is not found again. Made-up values in
its place, as some pipelines write, would be learnt as facts and counted as leaks.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from stages.curation.step import KEEP, Step, Verdict, each_text
from stages.settings import Settings

if TYPE_CHECKING:  # its number plans take too long to import for a check of params.yaml
    from stages.curation.personal import Span

Kind = Literal["email", "ip_address", "phone", "credit_card", "iban", "national_id", "secret"]
NationalId = Literal[
    "us_ssn",
    "us_itin",
    "gb_nino",
    "br_cpf",
    "ca_sin",
    "ch_ahv",
    "cn_ric",
    "de_idnr",
    "dk_cpr",
    "es_dni",
    "es_nie",
    "fi_hetu",
    "fr_nir",
    "in_aadhaar",
    "it_codicefiscale",
    "kr_rrn",
    "mx_curp",
    "nl_bsn",
    "pl_pesel",
    "se_personnummer",
    "za_idnr",
]
_RANK = ("secret", "email", "iban", "credit_card", "ip_address", "national_id", "phone")


class Pii(Settings):
    """Mask, drop or count personal data and secrets; numbers and tags (`pii:<kind>`) say what was found."""

    step: Literal["pii"]
    """Picks this step."""
    policies: dict[Kind, Literal["mask", "drop", "keep"]]
    """By kind: what is found is masked, or drops the document (`pii_<kind>`), or is only counted. A kind that is not
    named is not looked for."""
    national_ids: tuple[NationalId, ...]
    """Whose ids are looked for; some only near words that say so."""
    phone_regions: tuple[str, ...]
    """ISO 3166 codes of the number plans that telephone numbers without a country code may be of."""
    min_base64_entropy: float = Field(ge=0)
    """Bits a character of a value that is assigned to a name like key, token or secret (detect-secrets: 4.5)."""
    min_hex_entropy: float = Field(ge=0)
    """The same for hexadecimal values (detect-secrets: 3.0)."""
    spare_examples: bool
    """Leave what documentation and tests use as they are: example.com, 127.0.0.1, 192.0.2.0/24, 555-0100, cards that
    payment companies publish for tests."""

    def build(self) -> Step:
        """Return the step."""
        find = self.finder()
        return each_text(lambda text: self._judge(text, find(text)))

    def finder(self) -> "Callable[[str], list[Span]]":
        """Return the function from a text to what it has, in order, without overlaps."""
        from stages.curation import credentials, personal

        finders: list[Callable[[str], Iterator[Span]]] = [
            personal.finder(self.policies, self.phone_regions, self.national_ids, self.spare_examples)
        ]
        if "secret" in self.policies:
            finders.append(credentials.finder(self.min_base64_entropy, self.min_hex_entropy, self.spare_examples))
        return lambda text: _apart(span for find in finders for span in find(text))

    def _judge(self, text: str, spans: "list[Span]") -> Verdict:
        if not spans:
            return KEEP
        counts = Counter(span.kind for span in spans)
        tags = tuple(f"pii:{kind}" for kind in sorted(counts))
        actions = {str(kind): action for kind, action in self.policies.items()}
        dropping = next((kind for kind in sorted(counts) if actions[kind] == "drop"), None)
        if dropping:
            return Verdict(f"pii_{dropping}", dict(counts), None, tags)
        masked = _masked(text, [span for span in spans if actions[span.kind] == "mask"])
        return Verdict(None, dict(counts), masked, tags)


def _apart(spans: "Iterable[Span]") -> "list[Span]":
    """Return spans in order; of those that overlap the first one, or the likelier kind where they begin together."""
    apart: list[Span] = []
    for span in sorted(set(spans), key=lambda span: (span.start, _RANK.index(span.kind), -span.end)):
        if not apart or span.start >= apart[-1].end:
            apart.append(span)
    return apart


def _masked(text: str, spans: "list[Span]") -> str | None:
    if not spans:
        return None
    pieces, start = [], 0
    for span in spans:
        pieces += [text[start : span.start], f"[{span.kind.upper()}]"]
        start = span.end
    return "".join([*pieces, text[start:]])
