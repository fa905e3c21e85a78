from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stages.corpus.curation import Rejects, keep, split_of
from stages.corpus.documents import Document, document_id, read, text_digest
from stages.errors import UserError
from stages.files import read_json, read_jsonl, sha256_tree

OUT = Path("out/curate")
SPLITS = ("train", "validation", "test")
Run = Callable[..., None]
Params = dict[str, Any]
texts = st.lists(st.text(alphabet="abc", max_size=3), max_size=20)


def document(text: str, origin: str = "a", domain: str = "code", source: str = "s") -> Document:
    sha256 = text_digest(text)
    return Document(document_id(source, origin, sha256), text, domain, source, origin, "MIT", sha256)


def curated(split: str) -> list[Document]:
    return list(read(sorted((OUT / "documents" / split).glob("*.parquet"))))


@given(texts)
def test_of_equal_texts_the_first_survives_and_the_rest_are_counted(found: list[str]) -> None:
    rejects = Rejects(sample=5)
    documents = [document(text, origin=str(index)) for index, text in enumerate(found)]
    kept = list(keep(documents, {"code": {}}, rejects))
    assert [each.origin for each in kept] == [str(found.index(text)) for text in dict.fromkeys(found)]
    assert rejects.reasons.total()["documents"] == len(found) - len(kept)


def test_a_text_survives_if_one_domain_keeps_it() -> None:
    filters = {"code": {"length": {"min_characters": 10, "max_characters": 20}}, "prose": {}}
    pair = [document("short", domain="code"), document("short", domain="prose")]
    assert [each.domain for each in keep(pair, filters, Rejects(sample=5))] == ["prose"]


@given(st.lists(st.integers(0, 999), unique=True, min_size=1, max_size=60), st.integers(1, 5))
def test_the_sample_of_dropped_documents_is_bounded_and_does_not_depend_on_their_order(
    numbers: list[int], bound: int
) -> None:
    samples = []
    for order in (numbers, numbers[::-1]):
        rejects = Rejects(bound)
        for number in order:
            rejects.add(document(str(number)), "too_short")
        samples.append(list(rejects.sample()))
    assert samples[0] == samples[1]
    assert len(samples[0]) == min(bound, len(numbers))


@given(st.text(alphabet=st.characters(exclude_categories=["Cs"])))
def test_the_split_depends_on_the_text_and_the_seed_alone(text: str) -> None:
    one, other = document(text, "a", "code", "s"), document(text, "b", "prose", "t")
    assert split_of(one, 0.3, 0.3, 0) == split_of(other, 0.3, 0.3, 0)


def test_splits_have_the_fractions_asked_for_and_another_seed_draws_anew() -> None:
    documents = [document(str(number)) for number in range(4000)]
    drawn = [[split_of(each, 0.1, 0.2, seed) for each in documents] for seed in (0, 1)]
    assert drawn[0] != drawn[1]
    for splits in drawn:
        counts = Counter(splits)
        assert counts["validation"] == pytest.approx(400, abs=80)
        assert counts["test"] == pytest.approx(800, abs=100)


def test_a_held_out_text_stays_held_out_when_the_fraction_grows() -> None:
    documents = [document(str(number)) for number in range(500)]
    small = {each.text for each in documents if split_of(each, 0.01, 0.02, 0) == "test"}
    assert small <= {each.text for each in documents if split_of(each, 0.01, 0.05, 0) == "test"}


def test_no_text_is_in_two_splits_and_none_is_lost_uncounted(run_stages: Run) -> None:
    run_stages("snapshot", "curate")
    digests = [each.sha256 for split in SPLITS for each in curated(split)]
    assert len(set(digests)) == len(digests)
    report, taken = read_json(OUT / "report.json"), read_json(Path("out/snapshot/metrics.json"))
    dropped = sum(count["documents"] for count in report["dropped"].values())
    assert sum(report["kept"][split]["documents"] for split in SPLITS) == len(digests)
    assert len(digests) + dropped == taken["documents"]


def test_the_report_the_plot_and_the_sample_agree(params: Params, run_stages: Run) -> None:
    run_stages("snapshot", "curate")
    dropped = read_json(OUT / "report.json")["dropped"]
    plotted = read_json(OUT / "plots/drop_reasons.json")
    assert {row["reason"]: row["documents"] for row in plotted} == {
        reason: count["documents"] for reason, count in dropped.items()
    }
    sampled = Counter(row["reason"] for row in read_jsonl(OUT / "dropped.jsonl"))
    bound = params["curate"]["dropped_sample"]
    assert sampled == {reason: min(bound, count["documents"]) for reason, count in dropped.items()}


def test_the_same_snapshot_gives_the_same_bytes(run_stages: Run) -> None:
    run_stages("snapshot", "curate")
    first = sha256_tree(OUT)
    run_stages("curate")
    assert sha256_tree(OUT) == first


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"split": {"validation": 0.5, "test": 0.5, "seed": 0}}, r"curate\.split.*less than 1"),
        ({"split": {"validation": 0.0, "test": 0.1, "seed": 0}}, r"curate\.split\.validation = 0\.0"),
        ({"filters": {"code": {}}}, r"curate\.filters has no 'prose', the domain of source 'reference'"),
        ({"filters": {"code": {"lenght": {}}}}, r"curate\.filters\.code\.lenght is not a parameter"),
        ({"filters": {"code": {"length": {"min_characters": 1}}}}, r"code\.length\.max_characters is missing"),
    ],
)
def test_a_bad_parameter_is_named(change: Params, message: str, params: Params, run_stages: Run) -> None:
    run_stages("snapshot")
    params["curate"] |= change
    with pytest.raises(UserError, match=message):
        run_stages("curate")
    assert not OUT.exists()


def test_a_missing_snapshot_is_named_with_the_stage_that_makes_it(run_stages: Run) -> None:
    with pytest.raises(UserError, match=r"'out/snapshot/documents' has no documents.*`dvc repro snapshot`"):
        run_stages("curate")
