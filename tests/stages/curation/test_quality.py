import hashlib
import json
import pydoc_data.topics
import textwrap
from pathlib import Path
from types import ModuleType

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from stages.curation import c4, chain, classifier, contamination, engine, quality, rules, words
from stages.curation.classifier import Example
from stages.curation.quality import LearnedQuality
from stages.errors import UserError
from tests.shared import shared
from tests.stages.curation.documents import DECLARATION, document

MODULES: list[ModuleType] = [c4, chain, classifier, contamination, engine, quality, rules, words, textwrap, json]


def passages(text: str, size: int = 600) -> list[str]:
    return [text[start : start + size] for start in range(0, len(text) - size, size)]


def labelled() -> list[dict[str, str]]:
    """Return passages of Python's reference and of source code."""
    reference = "\n".join(pydoc_data.topics.topics.values())[:120_000]
    code = "\n".join(Path(str(module.__file__)).read_text() for module in MODULES)
    rows = [{"text": text, "label": "prose"} for text in passages(reference)]
    return rows + [{"text": text, "label": "code"} for text in passages(code)]


def step_settings(path: Path, **parameters: object) -> LearnedQuality:
    digest = hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "0" * 64
    fixed = {"step": "quality", "examples": path, "sha256": digest, "good": ("prose",), "bits": 14, "held_out": 0.3}
    return LearnedQuality.model_validate(fixed | parameters)


@pytest.fixture(scope="module")
def examples(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("quality") / "examples.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in labelled()))
    return path


def test_held_out_examples_are_told_apart(examples: Path) -> None:
    _, held_out = step_settings(examples).classifier()
    assert held_out.examples > 60 and 0.3 < held_out.good / held_out.examples < 0.9
    assert held_out.accuracy > 0.95 and held_out.auc > 0.99


def test_low_scores_are_dropped_and_without_a_threshold_only_noted(examples: Path) -> None:
    documents = [document(DECLARATION), document(Path(str(engine.__file__)).read_text())]
    good, bad = step_settings(examples, min_score=0.5).build()(documents)
    assert good.reason is None and good.numbers["quality"] > 0.5
    assert bad.reason == "low_quality" and bad.numbers["quality"] < 0.5
    noted = step_settings(examples).build()(documents)
    assert [verdict.reason for verdict in noted] == [None, None]
    assert [verdict.numbers for verdict in noted] == [good.numbers, bad.numbers]


def test_score_of_a_text_does_not_depend_on_the_batch(examples: Path) -> None:
    scorer, _ = step_settings(examples).classifier()
    texts = [row["text"] for row in labelled()] + ["", "one"]
    alone = [float(scorer.scores([text])[0]) for text in texts]
    assert scorer.scores(texts[::-1]).tolist() == alone[::-1]


def test_training_again_gives_equal_bytes(examples: Path, tmp_path: Path) -> None:
    rows = [Example(row["text"], row["label"] == "prose") for row in labelled()]
    taken, held = classifier.split(rows, 0.3)
    for name in ("first", "second"):
        words.english.cache_clear()
        trained = classifier.train(taken, bits=14, regularization=1e-4)
        trained.write(tmp_path / name, classifier.measure(trained, held))
    first, second = (sorted((tmp_path / name).iterdir()) for name in ("first", "second"))
    assert [file.name for file in first] == ["classifier.json", "weights.npy"]
    assert [file.read_bytes() for file in first] == [file.read_bytes() for file in second]
    assert np.load(first[1]).shape == (1 << 14,)


def test_parquet_and_json_lines_give_the_same_classifier(examples: Path, tmp_path: Path) -> None:
    pq.write_table(pa.Table.from_pylist(labelled()), tmp_path / "examples.parquet")
    other, _ = step_settings(tmp_path / "examples.parquet").classifier()
    one, _ = step_settings(examples).classifier()
    assert (other.weights == one.weights).all() and other.bias == one.bias


def test_pair_of_words_counts_only_within_a_text() -> None:
    rows = [Example("not good", False), Example("good", True), Example("not bad", True), Example("bad", False)] * 20
    scores = classifier.train(rows, bits=12, regularization=1e-4).scores(["not good", "good", "not bad", "bad"])
    assert (scores > 0.5).tolist() == [False, True, True, False]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("examples.csv", "text,label\n", "neither .jsonl nor .parquet"),
        ("examples.jsonl", '{"text": "a"}\n', "row 0 .* has no strings"),
        ("examples.jsonl", '{"text": "a", "label": "prose"}\n{', "row 1 .* is not JSON"),
        ("examples.jsonl", "[1]\n", "row 0 .* has no strings"),
        ("examples.jsonl", '{"text": "a", "label": "prose"}\n' * 20, "not of both kinds"),
    ],
)
def test_examples_that_are_not_as_they_should_be_are_named(
    name: str, content: str, message: str, tmp_path: Path
) -> None:
    path = tmp_path / name
    path.write_text(content)
    with pytest.raises(UserError, match=message):
        step_settings(path).build()


def test_examples_are_pinned(examples: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"is no file"):
        step_settings(tmp_path / "absent.jsonl").build()
    with pytest.raises(UserError, match=r"has sha256 .* not 0000"):
        step_settings(examples, sha256="0" * 64).build()


def test_domains_of_a_corpus_are_told_apart() -> None:
    found: list[Example] = []
    for domain in ("encyclopedic", "docs"):
        files = sorted(path for path in (shared("corpus") / domain).rglob("*") if path.is_file())
        cut = [passages(path.read_text(errors="replace")[:8000], 1000) for path in files[::3]]
        found += [Example(text, domain == "encyclopedic") for texts in cut for text in texts][:900]
    taken, held = classifier.split(found, 0.2)
    measured = classifier.measure(classifier.train(taken, bits=16, regularization=1e-5), held)
    assert measured.examples > 150 and measured.accuracy > 0.97
