"""The exported model's tokenizer, reading text as the training shards were read."""

from pathlib import Path

from transformers import AutoTokenizer, PreTrainedTokenizerBase


def load_tokenizer(model: Path) -> PreTrainedTokenizerBase:
    """Return the tokenizer of a model; where a document quotes `<|endoftext|>`, that is text, not the token."""
    tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(model, split_special_tokens=True)
    return tokenizer


def tokenize(tokenizer: PreTrainedTokenizerBase, texts: list[str]) -> list[list[int]]:
    """Return the tokens of each text, none added and none cut off."""
    tokens: list[list[int]] = tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"]
    return tokens
