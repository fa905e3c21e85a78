import json
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import llama_cpp
import pytest
from tokenizers import Tokenizer

from model.gguf import pretokenizers, writer
from stages.errors import UserError
from tests.model.gguf import made

TEXTS = made.texts()
Change = Callable[[dict[str, Any]], object]


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made.folder(tmp_path_factory.mktemp("exported") / "model", made.model("llama"))


def differing(opened: llama_cpp.Llama, file: Path, special: bool, texts: list[str] = TEXTS) -> list[str]:
    """Return those texts of which llama.cpp and `tokenizers` make other ids, which it writes as text again."""
    tokenizer = Tokenizer.from_file(str(file))
    tokenizer.encode_special_tokens = not special
    theirs = [opened.tokenize(text.encode(), add_bos=False, special=special) for text in texts]
    ours = [encoding.ids for encoding in tokenizer.encode_batch(texts, add_special_tokens=False)]
    return [text for text, their_ids, our_ids in zip(texts, theirs, ours, strict=True) if their_ids != our_ids]


@pytest.mark.parametrize("special", [False, True], ids=["as text", "as special tokens"])
def test_ids_of_2000_strings_are_those_of_tokenizers(exported: Path, special: bool) -> None:
    """Names of special tokens in a text are read as text, as in training, or as the tokens, as prompts are."""
    assert len(TEXTS) == 2000
    assert sum("<|endoftext|>" in text for text in TEXTS) > 50
    with made.llama(made.gguf(exported), vocab_only=True) as opened:
        assert differing(opened, exported / "tokenizer.json", special) == []


@pytest.mark.parametrize(("chosen", "name"), pretokenizers.NAMES.items(), ids=pretokenizers.NAMES.values())
def test_every_pre_tokenizer_by_name_is_the_one_of_llama_cpp(
    chosen: pretokenizers.PreTokenizer, name: str, tmp_path: Path
) -> None:
    texts = made.texts(600)
    source = made.folder(tmp_path / "model", made.model("llama"))
    made.tokenizer_with(chosen, texts).save(str(source / "tokenizer.json"))
    with made.llama(made.gguf(source), vocab_only=True) as opened:
        assert opened.metadata["tokenizer.ggml.pre"] == name
        assert differing(opened, source / "tokenizer.json", special=False, texts=texts) == []


def test_another_pre_tokenizer_of_llama_cpp_gives_other_ids(exported: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a wrong name does, which llama.cpp does not notice."""
    monkeypatch.setitem(pretokenizers.NAMES, pretokenizers.PreTokenizer((pretokenizers.LLAMA_3,), True), "gpt-2")
    with made.llama(made.gguf(exported), vocab_only=True) as opened:
        assert len(differing(opened, exported / "tokenizer.json", special=False)) > 200


def test_texts_come_back_byte_for_byte(exported: Path) -> None:
    with made.llama(made.gguf(exported), vocab_only=True) as opened:
        ids = [opened.tokenize(text.encode(), add_bos=False, special=False) for text in TEXTS]
        assert [opened.detokenize(some, special=True) for some in ids] == [text.encode() for text in TEXTS]


def test_special_tokens_are_those_of_the_configuration_and_nothing_is_added(exported: Path) -> None:
    with made.llama(made.gguf(exported), vocab_only=True) as opened:
        assert (opened.token_bos(), opened.token_eos()) == (0, 0)
        assert opened.metadata["tokenizer.ggml.padding_token_id"] == "1"
        assert opened.tokenize(b"import", special=True) == opened.tokenize(b"import", add_bos=False)


def test_a_model_without_begin_token_does_not_get_token_11(tmp_path: Path) -> None:
    source = made.folder(tmp_path / "model", made.model("llama", bos_token_id=None, eos_token_id=[5, 6]))
    with made.llama(made.gguf(source), vocab_only=True) as opened:
        assert (opened.token_bos(), opened.token_eos()) == (5, 5)
    made.rewrite(source / "config.json", eos_token_id=None)
    with pytest.raises(UserError, match="has no eos_token_id"):
        made.gguf(source)


def test_special_tokens_beyond_the_table_are_refused(tmp_path: Path) -> None:
    source = made.folder(tmp_path / "model", made.model("llama"))
    made.rewrite(source / "config.json", eos_token_id=made.VOCAB_SIZE)
    with pytest.raises(UserError, match=r"special ids \{'eos': 1000\}, but only 1000 tokens"):
        made.gguf(source)


def test_a_template_that_begins_texts_is_kept(exported: Path, tmp_path: Path) -> None:
    source = changed(exported, tmp_path, lambda file: file.update(post_processor=_beginning(file)))
    with made.llama(made.gguf(source), vocab_only=True) as opened:
        assert opened.tokenize(b"import")[0] == 0
        assert opened.tokenize(b"import")[1:] == opened.tokenize(b"import", add_bos=False)


def test_rows_without_token_are_unused(tmp_path: Path) -> None:
    """Published tables are padded: the model has more rows than the tokenizer has ids."""
    source = made.folder(tmp_path / "model", made.model("llama", vocab_size=made.VOCAB_SIZE + 24))
    with made.llama(made.gguf(source), vocab_only=True) as opened:
        assert opened.n_vocab() == made.VOCAB_SIZE + 24
        assert len(opened.tokenize(b"[PAD1000]", add_bos=False, special=True)) > 1


def changed(exported: Path, tmp_path: Path, change: Change) -> Path:
    """Return a copy of the folder with a changed tokenizer.json."""
    source = tmp_path / "changed"
    source.mkdir()
    for file in exported.iterdir():
        (source / file.name).symlink_to(file)
    parsed = json.loads((exported / "tokenizer.json").read_text())
    change(parsed)
    (source / "tokenizer.json").unlink()
    (source / "tokenizer.json").write_text(json.dumps(parsed))
    return source


def _beginning(file: dict[str, Any]) -> dict[str, Any]:
    token = {"id": "<|endoftext|>", "ids": [0], "tokens": ["<|endoftext|>"]}
    first = {"SpecialToken": {"id": "<|endoftext|>", "type_id": 0}}
    single = [first, *file["post_processor"]["single"]]
    template: dict[str, Any] = file["post_processor"]
    return template | {"single": single, "special_tokens": {"<|endoftext|>": token}}


def _template_with_padding(file: dict[str, Any]) -> None:
    template = _beginning(file)
    template["special_tokens"]["<|endoftext|>"]["ids"] = [1]
    file["post_processor"] = template


def _pattern(file: dict[str, Any]) -> dict[str, Any]:
    pattern: dict[str, Any] = file["pre_tokenizer"]["pretokenizers"][0]["pattern"]
    return pattern


def test_a_tokenizer_that_normalises_is_written_with_a_remark(exported: Path, tmp_path: Path) -> None:
    """Qwen's and GPT-NeoX's do; only a text in another form than NFC, which is rare, gets other ids."""
    source = changed(exported, tmp_path, lambda file: file.update(normalizer={"type": "NFC"}))
    remarks = writer.write(source, tmp_path / "nfc.gguf", "F32", writer.Identity("made"))
    assert [remark for remark in remarks if "NFC" in remark]
    with made.llama(tmp_path / "nfc.gguf", vocab_only=True) as opened:
        other = differing(opened, source / "tokenizer.json", special=False)
        assert other
        assert not [text for text in other if unicodedata.is_normalized("NFC", text)]


REFUSED: dict[str, Change] = {
    r"pre-tokenizer .* llama.cpp does not have": lambda file: _pattern(file).update(Regex=r"\s+|\S+"),
    r"Metaspace": lambda file: file.update(
        pre_tokenizer={"type": "Metaspace", "replacement": "_", "prepend_scheme": "always", "split": True}
    ),
    r"ignore_merges=True": lambda file: _pattern(file).update(Regex=pretokenizers.GPT_2),
    r"normalizer Lowercase": lambda file: file.update(normalizer={"type": "Lowercase"}),
    r"byte_fallback": lambda file: file["model"].update(byte_fallback=True),
    r"the ids \[1\] around a text": _template_with_padding,
    r"'<\|padding\|>' with lstrip": lambda file: file["added_tokens"][1].update(lstrip=True),
    r"id 1000 .*has 1000 rows": lambda file: file["added_tokens"].append(
        file["added_tokens"][1] | {"id": 1000, "content": "<|more|>"}
    ),
    r"not a tokenizer.json": lambda file: file.pop("model"),
}


@pytest.mark.parametrize("named", REFUSED)
def test_what_llama_cpp_would_read_otherwise_is_refused_by_name(named: str, exported: Path, tmp_path: Path) -> None:
    source = changed(exported, tmp_path, REFUSED[named])
    with pytest.raises(UserError, match=named):
        made.gguf(source)


def test_a_folder_without_tokenizer_is_refused(exported: Path, tmp_path: Path) -> None:
    source = changed(exported, tmp_path, lambda file: None)
    (source / "tokenizer.json").unlink()
    with pytest.raises(UserError, match=r"tokenizer.json' is missing"):
        made.gguf(source)
