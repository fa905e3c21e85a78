from typing import Any

import pytest

from model.gguf.pretokenizers import GPT_2, LLAMA_3, NAMES, QWEN_2, read


def split(pattern: str, behavior: str = "Isolated", invert: bool = False) -> dict[str, Any]:
    return {"type": "Split", "pattern": {"Regex": pattern}, "behavior": behavior, "invert": invert}


def byte_level(use_regex: bool = False) -> dict[str, Any]:
    return {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": use_regex}


PUBLISHED = {
    "llama-bpe": ([split(LLAMA_3), byte_level()], True),
    "dbrx": ([split(LLAMA_3, "Removed", invert=True), byte_level()], False),
    "qwen2": ([split(QWEN_2), byte_level()], False),
    "gpt-2": ([byte_level(use_regex=True)], False),
    "smollm": ([{"type": "Digits", "individual_digits": True}, byte_level(use_regex=True)], False),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_forms_of_published_tokenizers_have_their_names(name: str) -> None:
    steps, ignore_merges = PUBLISHED[name]
    declared = steps[0] if len(steps) == 1 else {"type": "Sequence", "pretokenizers": steps}
    found = read({"pre_tokenizer": declared, "model": {"type": "BPE", "ignore_merges": ignore_merges}})
    assert NAMES[found] == name


@pytest.mark.parametrize(
    "steps",
    [
        [],
        [split(LLAMA_3, "MergedWithNext"), byte_level()],
        [split(r"\p{N}{1,3}", "Removed", invert=True), split(GPT_2), byte_level()],
        [byte_level(use_regex=True) | {"add_prefix_space": True}],
        [{"type": "Digits", "individual_digits": False}, byte_level(use_regex=True)],
        [split(QWEN_2), byte_level(use_regex=True)],
    ],
)
def test_what_only_looks_alike_has_no_name(steps: list[dict[str, Any]]) -> None:
    declared = {"type": "Sequence", "pretokenizers": steps}
    assert read({"pre_tokenizer": declared, "model": {"type": "BPE", "ignore_merges": False}}) not in NAMES
