import json
import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from evals.questions import HeldOut
from evals.tasks import write
from stages.errors import UserError
from tests.evals import world

if TYPE_CHECKING:
    from evals.harness import Model, Outcome

TEXTS = [*world.texts("json"), f"The text {world.END_OF_DOCUMENT} is quoted here, and é, 漢字 and 🙂 are not ASCII.\n"]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> "Model":
    """A model to which every token is equally likely."""
    from evals.harness import Model

    folder = tmp_path_factory.mktemp("model")
    world.write_model(folder, len(world.write_tokenizer(folder, TEXTS)), uniform=True)
    return Model(folder, device="cpu", dtype="float32", batch_size=4, threads=2)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The user's cache of datasets."""
    import datasets

    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(datasets.config, "HF_DATASETS_CACHE", folder)
        yield folder


@pytest.fixture(scope="module")
def outcome(model: "Model", cache: Path, tmp_path_factory: pytest.TempPathFactory) -> "Outcome":
    from evals.harness import run

    folder = tmp_path_factory.mktemp("tasks")
    names = write(folder, HeldOut({"code": world.documents("code", TEXTS)}, {}))
    return run(model, folder, names, [], None)


def test_a_uniform_model_needs_log2_of_the_vocabulary_for_each_token_of_whole_documents(
    model: "Model", outcome: "Outcome"
) -> None:
    from evals.tokenizer import load_tokenizer, tokenize

    tokenizer = load_tokenizer(model.path)
    tokens = sum(map(len, tokenize(tokenizer, TEXTS)))
    assert tokens > 4 * world.CONTEXT
    size = sum(len(text.encode()) for text in TEXTS)
    expected = math.log2(len(tokenizer)) * tokens / size
    assert outcome.results["bits_per_byte_code"]["bits_per_byte,none"] == pytest.approx(expected, rel=1e-6)


def test_a_quoted_special_token_is_scored_as_text(model: "Model", outcome: "Outcome") -> None:
    from evals.tokenizer import load_tokenizer, tokenize

    tokenizer = load_tokenizer(model.path)
    (tokens,) = tokenize(tokenizer, TEXTS[-1:])
    assert tokenizer.bos_token_id not in tokens
    (log_likelihood, size) = outcome.samples["bits_per_byte_code"][-1]["bits_per_byte"]
    assert log_likelihood == pytest.approx(-len(tokens) * math.log(len(tokenizer)), rel=1e-6)
    assert size == len(TEXTS[-1].encode())


def test_nothing_is_left_in_the_cache_of_the_user(outcome: "Outcome", cache: Path) -> None:
    import datasets

    assert cache == datasets.config.HF_DATASETS_CACHE
    assert not list(cache.iterdir())


def test_an_absent_device_is_refused(model: "Model", tmp_path: Path) -> None:
    from evals.harness import run

    with pytest.raises(UserError, match=r"evaluate.device = 'cuda:99': torch finds cpu"):
        run(replace(model, device="cuda:99"), tmp_path, [], [], None)


@pytest.mark.e2e  # the index of lm-eval's tasks takes ten seconds
def test_groups_and_tags_stand_for_their_tasks_however_deep(tmp_path: Path) -> None:
    from evals.harness import leaves

    definitions = {
        "sums.yaml": {"task": "sums", "tag": ["numbers"]},
        "primes.yaml": {"task": "primes", "tag": ["numbers"]},
        "inner.yaml": {"group": "inner", "task": ["numbers", {"task": "sums", "num_fewshot": 2}]},
        "outer.yaml": {
            "group": "outer",
            "task": ["inner", {"task": "own"}, {"group": "part", "task": ["arc_easy", {"task": "deep"}]}],
        },
    }
    for name, definition in definitions.items():
        (tmp_path / name).write_text(json.dumps(definition))
    own, theirs = ["outer", "numbers", "sums"], ["mmlu", "blimp", "ai2_arc"]
    found = leaves([*own, *theirs], tmp_path, "evaluate")
    assert {name: found[name] for name in own} == {
        "outer": ["arc_easy", "outer::own", "outer::part::deep", "primes", "sums"],
        "numbers": ["primes", "sums"],
        "sums": ["sums"],
    }
    assert {name: len(found[name]) for name in theirs} == {"mmlu": 57, "blimp": 67, "ai2_arc": 2}
    assert {task.split("_")[0] for task in found["mmlu"]} == {"mmlu"}
