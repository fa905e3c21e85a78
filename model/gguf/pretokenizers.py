"""The pre-tokenizers that llama.cpp implements, as a tokenizer.json describes them.

llama.cpp knows a pre-tokenizer by name alone and has its regular expressions built in. A wrong name is not noticed: the
model loads, and reads other tokens than it was trained on.
"""

import json
from typing import Any, NamedTuple

GPT_2 = r"""'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"""
LLAMA_3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
QWEN_2 = LLAMA_3.replace(r"\p{N}{1,3}", r"\p{N}")
DEEPSEEK_3 = (
    r"\p{N}{1,3}",
    "[一-龥\u3040-ゟ\u30a0-ヿ]+",  # both ends of the kana
    r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+",
)
_DIGIT = r"\p{N}"
_COVERING = (GPT_2, LLAMA_3, QWEN_2)
"""Every character of a text is in a match: what lies between matches is empty, whatever is done with it."""


class PreTokenizer(NamedTuple):
    """How words are found, and what becomes of one that is itself a token."""

    patterns: tuple[str, ...]
    """Each splits the pieces of the one before it."""
    ignore_merges: bool
    """Such a word is that token; else the merges decide."""


NAMES = {
    PreTokenizer((LLAMA_3,), True): "llama-bpe",
    PreTokenizer((LLAMA_3,), False): "dbrx",  # OLMo 2 and 3 too
    PreTokenizer((GPT_2,), False): "gpt-2",  # Pythia too
    PreTokenizer((QWEN_2,), False): "qwen2",  # Qwen 3 too
    PreTokenizer((_DIGIT, GPT_2), False): "smollm",
    PreTokenizer(DEEPSEEK_3, False): "deepseek-v3",
}
"""Values of `tokenizer.ggml.pre`."""


def read(tokenizer: dict[str, Any]) -> PreTokenizer:
    """Return the pre-tokenizer of a parsed tokenizer.json, in the form that `NAMES` has."""
    declared = tokenizer["pre_tokenizer"] or {"type": "Sequence", "pretokenizers": []}
    steps = declared["pretokenizers"] if declared["type"] == "Sequence" else [declared]
    patterns = tuple(pattern for step in steps for pattern in _patterns(step))
    return PreTokenizer(patterns, bool(tokenizer["model"].get("ignore_merges")))


def _patterns(step: dict[str, Any]) -> tuple[str, ...]:
    """Return the patterns of a step; one that splits in no known way stands for itself, and so has no name."""
    match step:
        case {"type": "ByteLevel", "add_prefix_space": False}:
            return (GPT_2,) if step.get("use_regex", True) else ()
        case {"type": "Digits", "individual_digits": True}:
            return (_DIGIT,)
        case {"type": "Split", "behavior": "Isolated", "invert": False, "pattern": {"Regex": pattern}}:
            return (pattern,)
        case {"type": "Split", "behavior": "Removed", "invert": True, "pattern": {"Regex": pattern}}:
            return (pattern,) if pattern in _COVERING else (json.dumps(step),)
        case _:
            return (json.dumps(step),)
