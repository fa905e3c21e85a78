import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer
from transformers import AutoTokenizer

from stages.corpus import bpe
from stages.corpus.documents import Document, read
from stages.errors import UserError
from stages.files import read_json, sha256_file, sha256_tree

OUT = Path("out/tokenizer")
FILE = OUT / "tokenizer/tokenizer.json"
ROOT = Path(__file__).parents[2]
Run = Callable[..., None]
Params = dict[str, Any]
any_text = st.text(alphabet=st.characters(exclude_categories=["Cs"]))


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    bpe.train([Path(json.decoder.__file__).read_text()], vocab_size=400).save(str(path))
    return bpe.load(path)


@given(any_text)
def test_every_text_comes_back_byte_for_byte(tokenizer: Tokenizer, text: str) -> None:
    ids = tokenizer.encode(text, add_special_tokens=False).ids
    assert tokenizer.decode(ids, skip_special_tokens=False) == text


@given(any_text, st.sampled_from([bpe.END_OF_DOCUMENT, bpe.PADDING]), any_text)
def test_a_special_tokens_name_in_a_text_is_ordinary_text(
    tokenizer: Tokenizer, before: str, token: str, after: str
) -> None:
    ids = tokenizer.encode(before + token + after, add_special_tokens=False).ids
    assert min(ids) > 1
    assert tokenizer.decode(ids, skip_special_tokens=False) == before + token + after


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("I'll say", ["I", "'ll", "Ġsay"]),
        ("12345", ["123", "45"]),
        ("a  b\n\n  c", ["a", "Ġ", "Ġb", "ĊĊ", "Ġ", "Ġc"]),
        ("f(x):\n", ["f", "(x", "):Ċ"]),
    ],
)
def test_texts_are_cut_as_llama_3_cuts_them(tokenizer: Tokenizer, text: str, words: list[str]) -> None:
    pre_tokenizer = tokenizer.pre_tokenizer
    assert pre_tokenizer is not None
    assert [word for word, _ in pre_tokenizer.pre_tokenize_str(text)] == words


def test_the_tokenizer_loads_with_transformers_and_encodes_the_same(run_stages: Run) -> None:
    run_stages("snapshot", "curate", "tokenizer")
    fast, own = AutoTokenizer.from_pretrained(FILE.parent), bpe.load(FILE)
    assert fast.is_fast
    assert (len(fast), fast.bos_token_id, fast.eos_token_id, fast.pad_token_id) == (512, 0, 0, 1)
    text = " ".join(document.text for document in read(sorted(Path("out/curate/documents/test").glob("*"))))[:50_000]
    assert fast(text)["input_ids"] == own.encode(text).ids
    assert fast.decode(fast(text)["input_ids"]) == text


def test_metrics_are_bytes_over_tokens_of_the_validation_split(run_stages: Run) -> None:
    run_stages("snapshot", "curate", "tokenizer")
    tokenizer = bpe.load(FILE)
    documents = list(read(sorted(Path("out/curate/documents/validation").glob("*"))))
    length = sum(len(document.text.encode()) for document in documents)
    tokens = sum(map(len, bpe.encode(tokenizer, documents)))
    measured = read_json(OUT / "metrics.json")["bytes_per_token"]
    assert measured["all"] == length / tokens
    assert set(measured) == {"all", "code", "prose"}


def test_a_text_that_does_not_come_back_is_named(tokenizer: Tokenizer) -> None:
    document = Document("0" * 32, "abc", "code", "s", "a.py", "MIT", "")
    with pytest.raises(UserError, match=r"'a\.py' \(id 0{32}\) back: it differs from character 2 on"):
        bpe.check_round_trip(tokenizer, document, tokenizer.encode("abX").ids)


def test_an_existing_tokenizer_is_taken_as_it_is(params: Params, run_stages: Run) -> None:
    run_stages("snapshot", "curate", "tokenizer")
    FILE.rename("mine.json")
    expected = sha256_file(Path("mine.json"))
    params["tokenizer"] |= {"path": "mine.json", "sha256": expected}
    run_stages("tokenizer")
    assert sha256_file(FILE) == expected


def test_training_on_a_fraction_is_training_on_fewer_documents(params: Params, run_stages: Run) -> None:
    run_stages("snapshot", "curate", "tokenizer")
    whole = sha256_tree(OUT)
    params["tokenizer"]["train_fraction"] = 0.5
    run_stages("tokenizer")
    assert sha256_tree(OUT) != whole


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"vocab_size": 100}, r"tokenizer\.vocab_size = 100"),
        ({"vocab_size": 900_000}, r"tokenizer\.vocab_size = 900000 but the text yields only \d+ tokens"),
        ({"path": "mine.json"}, "path and sha256 are given together"),
        ({"path": "mine.json", "sha256": "0" * 64}, r"tokenizer\.sha256 is '0{64}' but 'mine\.json' has"),
        ({"path": "none.json", "sha256": "0" * 64}, r"'none\.json' is missing"),
        ({"path": "params.yaml", "sha256": "0" * 64}, r"'params\.yaml' is not a tokenizer\.json"),
    ],
)
def test_a_bad_parameter_is_named(
    change: Params, message: str, params: Params, run_stages: Run, tokenizer: Tokenizer
) -> None:
    run_stages("snapshot", "curate")
    tokenizer.save("mine.json")
    params["tokenizer"] |= change
    with pytest.raises(UserError, match=message):
        run_stages("tokenizer")
    assert not OUT.exists()


def test_an_existing_tokenizer_has_the_size_and_the_special_tokens(
    params: Params, run_stages: Run, tokenizer: Tokenizer
) -> None:
    run_stages("snapshot", "curate")
    tokenizer.save("mine.json")
    params["tokenizer"] |= {"path": "mine.json", "sha256": sha256_file(Path("mine.json"))}
    with pytest.raises(UserError, match=r"tokenizer\.vocab_size = 512 but 'mine\.json' has 400 tokens"):
        run_stages("tokenizer")
    Path("mine.json").write_text(Path("mine.json").read_text().replace(bpe.PADDING, "<pad>"))
    with pytest.raises(UserError, match=r"'mine\.json' has no token '<\|padding\|>'"):
        run_stages("tokenizer")


STAGES = """
import importlib
for stage in ("snapshot", "curate", "tokenizer", "shards"):
    importlib.import_module(f"stages.{stage}").main()
"""


@pytest.mark.e2e
def test_bytes_do_not_depend_on_folder_threads_hash_seed_or_locale(params: Params, tmp_path: Path) -> None:
    digests = []
    for workers, seed, locale in ((1, "1", "C"), (2, "2", "C.UTF-8")):
        folder = tmp_path / f"clone with {workers} workers"
        folder.mkdir()
        params["tokenizer"]["workers"] = workers
        params["shards"]["engine"]["workers"] = params["curate"]["engine"]["workers"] = workers
        (folder / "params.yaml").write_text(json.dumps(params))
        environment = os.environ | {"PYTHONPATH": str(ROOT), "PYTHONHASHSEED": seed, "LC_ALL": locale}
        subprocess.run([sys.executable, "-c", STAGES], cwd=folder, env=environment, check=True)
        digests.append({stage.name: sha256_tree(stage) for stage in (folder / "out").iterdir()})
    assert digests[0] == digests[1]
    assert set(digests[0]) == {"snapshot", "curate", "tokenizer", "shards"}
