import json
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import tiktoken
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Regex, Tokenizer, pre_tokenizers

from stages.corpus import bpe
from stages.corpus.encoder import BLANKS, Encoder
from tests.shared import shared

SOURCES = [Path(module.__file__ or "") for module in (json.decoder, json.encoder, pytest)]


@cache
def tokenizer() -> Tokenizer:
    trained = bpe.train([path.read_text() for path in SOURCES], 600)
    trained.encode_special_tokens = True
    return trained


@cache
def encoder() -> Encoder:
    return Encoder(tokenizer())


def changed(**model: Any) -> Tokenizer:
    described = json.loads(tokenizer().to_str())
    found = Tokenizer.from_str(json.dumps({**described, "model": {**described["model"], **model}}))
    found.encode_special_tokens = True
    return found


def ids(text: str, of: Tokenizer) -> list[int]:
    found: list[int] = of.encode(text, add_special_tokens=False).ids
    return found


@settings(deadline=None)  # the first example trains the tokenizer
@given(st.text(st.sampled_from("'sStlLreabc 1٣\n\r\t\u00a0\u3000.,_é日\u017f\u212a\u0301\U0001f600<|>")) | st.text())
def test_any_text_gets_the_ids_of_the_tokenizer(text: str) -> None:
    assert encoder().fast
    assert encoder()(text).tolist() == ids(text, tokenizer())


def test_the_name_of_a_special_token_is_ordinary_text() -> None:
    text = f"a{bpe.END_OF_DOCUMENT} endoftext{bpe.PADDING}"
    assert encoder()(text).tolist() == ids(text, tokenizer())


def test_more_blanks_than_the_regex_engine_bears_are_encoded() -> None:
    text = "x" + "\t " * (BLANKS // 2) + "y"
    assert encoder()(text).tolist() == ids(text, tokenizer())


@pytest.mark.parametrize("pattern", [r"\p{L}", r"\p{N}", r"\s", "(?i:s|t|r|e|v|m|l|d)"])
def test_both_regex_engines_have_the_same_characters_in_a_class(pattern: str) -> None:
    characters = "".join(map(chr, [*range(0xD800), *range(0xE000, 0x110000)]))
    split = pre_tokenizers.Split(Regex(pattern), "removed", invert=True)
    ranks = {bytes([byte]): byte for byte in range(256)}
    found = tiktoken.Encoding("bytes", pat_str=pattern, mergeable_ranks=ranks, special_tokens={})
    expected = "".join(match for match, _ in split.pre_tokenize_str(characters))
    assert bytes(found.encode_ordinary(characters)).decode() == expected
    assert expected


def test_words_that_are_tokens_do_not_matter_to_the_proof() -> None:
    merged = Encoder(changed(ignore_merges=False))
    text = SOURCES[0].read_text()
    assert merged.fast
    assert merged(text).tolist() == ids(text, changed(ignore_merges=False))


def test_a_tokenizer_whose_merges_are_in_another_order_than_its_ids_is_asked_itself() -> None:
    merges = json.loads(tokenizer().to_str())["model"]["merges"]
    position = next(n for n, (one, two) in enumerate(pairwise(merges)) if "".join(one) not in two)
    merges[position : position + 2] = reversed(merges[position : position + 2])
    other = changed(merges=merges)
    text = SOURCES[0].read_text()
    assert not Encoder(other).fast
    assert Encoder(other)(text).tolist() == ids(text, other)


def test_a_tokenizer_that_normalises_or_finds_tokens_in_texts_is_asked_itself() -> None:
    described = json.loads(tokenizer().to_str())
    described["normalizer"] = {"type": "NFC"}
    normalising = Tokenizer.from_str(json.dumps(described))
    normalising.encode_special_tokens = True
    assert not Encoder(normalising).fast
    assert Encoder(normalising)("e\u0301").tolist() == ids("\u00e9", normalising)
    finding = changed()
    finding.add_tokens(["return"])
    assert not Encoder(finding).fast
    assert Encoder(finding)("a return").tolist() == ids("a return", finding)


@pytest.mark.e2e
def test_the_whole_corpus_gets_the_ids_of_the_tokenizer() -> None:
    for path in sorted(shared("corpus").rglob("*"))[::8]:
        if path.is_file():
            text = path.read_bytes().decode(errors="replace")
            assert encoder()(text).tolist() == ids(text, tokenizer()), path
