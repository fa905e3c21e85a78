"""A tokenizer.json as llama.cpp keeps a byte-level BPE tokenizer in a GGUF file."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gguf import GGUFWriter, TokenType
from tokenizers import Tokenizer, pre_tokenizers
from transformers import PreTrainedConfig

from model.gguf import pretokenizers
from stages.errors import UserError


@dataclass(frozen=True)
class Vocabulary:
    """What llama.cpp reads of a tokenizer."""

    pre: str
    """Its name for the pre-tokenizer."""
    tokens: list[str]
    """By id, as many as the model's table has rows; bytes are the characters of GPT-2's alphabet."""
    types: list[TokenType]
    """Of each token."""
    merges: list[str]
    """Pairs of tokens, best first."""
    add_bos: bool
    """A text starts with the begin token."""
    add_eos: bool
    """A text ends with the end token."""
    special: dict[str, int]
    """Ids of the begin and end tokens, `bos` and `eos`, and of the padding token, `pad`, if there is one."""

    def write(self, writer: GGUFWriter) -> None:
        """Write the metadata `tokenizer.ggml.*`."""
        writer.add_tokenizer_model("gpt2")
        writer.add_tokenizer_pre(self.pre)
        writer.add_token_list(self.tokens)
        writer.add_token_types(self.types)
        writer.add_token_merges(self.merges)
        for name, token in self.special.items():
            getattr(writer, f"add_{name}_token_id")(token)
        writer.add_add_bos_token(self.add_bos)
        writer.add_add_eos_token(self.add_eos)


def read(file: Path, config: PreTrainedConfig) -> Vocabulary:
    """Return the vocabulary of a tokenizer.json for a model.

    Raises:
        UserError: llama.cpp would not give the same ids for every text, or the model has fewer rows than ids.
    """
    parsed, tokenizer = _parse(file)
    _check_model(file, parsed)
    special = _special(config)
    add_bos, add_eos = _template(file, tokenizer, special)
    tokens, types = _tokens(file, parsed, int(config.vocab_size))
    outside = {name: token for name, token in special.items() if token >= len(tokens)}
    if outside:
        raise UserError(f"config.json has the special ids {outside}, but only {len(tokens)} tokens; correct it")
    merges = [pair if isinstance(pair, str) else " ".join(pair) for pair in parsed["model"]["merges"]]
    return Vocabulary(_name(file, parsed), tokens, types, merges, add_bos, add_eos, special)


def _parse(file: Path) -> tuple[dict[str, Any], Tokenizer]:
    try:
        text = file.read_text(encoding="utf-8")
        return json.loads(text), Tokenizer.from_str(text)
    except FileNotFoundError:
        raise UserError(f"'{file}' is missing; a GGUF file holds the tokenizer too. Bring it back.") from None
    except Exception as error:
        if type(error) is not Exception and not isinstance(error, ValueError):  # what the two libraries raise
            raise
        raise UserError(f"'{file}' is not a tokenizer.json ({error}); copy it again") from None


def _check_model(file: Path, parsed: dict[str, Any]) -> None:
    """Refuse what a file with `tokenizer.ggml.model = gpt2` cannot say."""
    model, alphabet = parsed["model"], set(pre_tokenizers.ByteLevel.alphabet())
    if model["type"] != "BPE":
        raise UserError(f"'{file}' is a {model['type']} tokenizer; only byte-level BPE can be written to GGUF here")
    unset = ("dropout", "continuing_subword_prefix", "end_of_word_suffix", "byte_fallback")
    used = [key for key in unset if model.get(key)]
    if parsed.get("normalizer") is not None and parsed["normalizer"] != {"type": "NFC"}:
        used.append(f"normalizer {parsed['normalizer']['type']}")
    if used:
        raise UserError(f"'{file}' uses {', '.join(used)}, which llama.cpp's byte-level BPE does not do")
    if missing := alphabet - model["vocab"].keys():
        raise UserError(f"'{file}' has no token for {len(missing)} of the 256 bytes; llama.cpp would drop them")


def _name(file: Path, parsed: dict[str, Any]) -> str:
    found = pretokenizers.read(parsed)
    if found not in pretokenizers.NAMES:
        raise UserError(
            f"the pre-tokenizer of '{file}' is {found}, which llama.cpp does not have: under another one's name it "
            "would cut words elsewhere and give the model ids it never saw. "
            f"Known are {', '.join(pretokenizers.NAMES.values())}."
        )
    return pretokenizers.NAMES[found]


def _special(config: PreTrainedConfig) -> dict[str, int]:
    """Return the special ids of the configuration; of several end tokens, the first.

    Where a file names no begin or end token, llama.cpp takes token 11, whatever it is.
    """
    ids = {name: getattr(config, f"{name}_token_id", None) for name in ("bos", "eos", "pad")}
    firsts = {name: value[0] if isinstance(value, list) else value for name, value in ids.items()}
    if firsts["eos"] is None:
        raise UserError("config.json has no eos_token_id; llama.cpp would end texts at token 11. Add it.")
    if firsts["bos"] is None:
        firsts["bos"] = firsts["eos"]
    return {name: int(value) for name, value in firsts.items() if value is not None}


def _template(file: Path, tokenizer: Tokenizer, special: dict[str, int]) -> tuple[bool, bool]:
    """Return whether the begin and the end token are put around a text, by what becomes of an empty one."""
    ids = tokenizer.encode("").ids
    bos, eos = special.get("bos"), special.get("eos")
    for add_bos, add_eos in ((False, False), (True, False), (False, True), (True, True)):
        if ids == [bos] * add_bos + [eos] * add_eos:
            return add_bos, add_eos
    raise UserError(f"'{file}' puts the ids {ids} around a text; llama.cpp can put bos = {bos} and eos = {eos} there")


def _tokens(file: Path, parsed: dict[str, Any], rows: int) -> tuple[list[str], list[TokenType]]:
    added = {token["id"]: token for token in parsed["added_tokens"]}
    known = {index: token for token, index in parsed["model"]["vocab"].items()}
    known |= {index: token["content"] for index, token in added.items()}
    if max(known) >= rows:
        raise UserError(
            f"'{file}' has the id {max(known)} ('{known[max(known)]}'), but the model's table has {rows} rows; "
            "they do not belong together"
        )
    for token in added.values():
        _check_added(file, token)
    tokens = [known.get(index, f"[PAD{index}]") for index in range(rows)]
    return tokens, [_type(index, known, added) for index in range(rows)]


def _check_added(file: Path, token: dict[str, Any]) -> None:
    used = [key for key in ("single_word", "lstrip", "rstrip") if token.get(key)]
    if used:
        raise UserError(f"'{file}' has the token '{token['content']}' with {', '.join(used)}, which GGUF cannot say")


def _type(index: int, known: dict[int, str], added: dict[int, dict[str, Any]]) -> TokenType:
    """Return the type: a special token's name in a text is not read as it, a user-defined token's is."""
    if index in added:
        return TokenType.CONTROL if added[index]["special"] else TokenType.USER_DEFINED
    return TokenType.NORMAL if index in known else TokenType.UNUSED
