"""Documents of which a test needs only the text, and texts that are hard to split."""

from hypothesis import strategies as st

from stages.corpus.documents import Document


def document(text: str, name: str = "test") -> Document:
    return Document(name, text, "web", "tests", name, "CC0-1.0", "")


_PIECES = """
    the be to of and that have with The rain in Spain stays mainly in the plain Mr. U.S. e.g. can't I'll Lovin'
    :) :-) :( (: ... … .. . ? ! " ' '' , ; - -- — • # { } [1] [edit] $5 US$5 5km 10am 3.5% 1,000 a.b http://x.org/a?b=c
    lorem ipsum JavaScript cookie policy 日本語 été ой 👍 \x00 cannot gonna and/or \\") 0 00 a aa ab b
"""
_SPACES = st.sampled_from([" ", " ", " ", "", "  ", "\t", "\n", "\n", "\n\n", "\n\n\n", "\r\n", "\u2028", "\xa0"])

texts = st.lists(st.tuples(st.sampled_from(_PIECES.split()), _SPACES), max_size=60).map(
    lambda parts: "".join(map("".join, parts))
)
"""Texts of few different words, so that lines and n-grams come again."""

DECLARATION = (
    "We hold these truths to be self-evident, that all men are created equal, that they are endowed by their Creator "
    "with certain unalienable Rights, that among these are Life, Liberty and the pursuit of Happiness. That to secure "
    "these rights, Governments are instituted among Men, deriving their just powers from the consent of the governed."
)
"""Prose that every filter keeps but for its number of sentences."""
