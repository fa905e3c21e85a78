import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from stages.corpus.documents import Document, document_id, text_digest
from stages.curation.benchmarks import Benchmark, Manifest
from stages.curation.chain import Chain
from stages.curation.contamination import CONTAMINATED, Contamination, Finding, coverage
from stages.curation.step import KEEP, Verdict
from stages.curation.unicode import Unicode
from stages.errors import UserError
from stages.files import sha256_tree
from tests.shared import shared
from tests.stages.curation.world import pinned

ANSWER = "Four score and seven years ago our fathers brought forth, on this continent, a new nation"
BEFORE, AFTER = "In November 1863 he said: ", " The speech took two minutes."


def document(text: str) -> Document:
    digest = text_digest(text)
    return Document(document_id("s", "o", digest), text, "prose", "s", "o", "CC0-1.0", digest)


@pytest.fixture
def benchmarks(tmp_path: Path) -> dict[str, Benchmark]:
    (tmp_path / "README.md").write_text(
        "---\nconfigs:\n- config_name: default\n  data_files:\n  - {split: test, path: test.jsonl}\n---\n"
    )
    (tmp_path / "test.jsonl").write_text(
        json.dumps({"question": "Who said it?", "text": ANSWER}) + '\n{"q": "Short"}\n'
    )
    return {"speeches": pinned(tmp_path, ("test",), ("speeches_*",))}


def judge(benchmarks: dict[str, Benchmark], text: str, **changes: Any) -> Verdict:
    settings = {"ngram": 13, "action": "drop", "margin": 0, "max_cuts": 10, **changes}
    (verdict,) = Contamination(step="contamination", benchmarks=benchmarks, **settings).build()([document(text)])
    return verdict


def test_a_document_with_an_answer_is_dropped_and_says_which(benchmarks: dict[str, Benchmark]) -> None:
    verdict = judge(benchmarks, BEFORE + ANSWER + AFTER)
    assert verdict.reason == CONTAMINATED
    assert verdict.numbers == {"ngrams": 4, "passages": 1, "rows": 1}
    assert Finding.of(verdict.tags) == [Finding("speeches", "test.jsonl:0", ANSWER)]


def test_other_documents_are_kept(benchmarks: dict[str, Benchmark]) -> None:
    assert judge(benchmarks, BEFORE + " ".join(ANSWER.split()[:12]) + AFTER) == KEEP


def test_a_tag_leaves_the_document(benchmarks: dict[str, Benchmark]) -> None:
    verdict = judge(benchmarks, BEFORE + ANSWER + AFTER, action="tag")
    assert (verdict.reason, verdict.text, verdict.tags[0]) == (None, None, CONTAMINATED)


def test_a_cut_takes_the_passage_and_its_margin(benchmarks: dict[str, Benchmark]) -> None:
    text = BEFORE + ANSWER + AFTER
    assert judge(benchmarks, text, action="cut").text == f"{BEFORE.strip()}\n\n{AFTER.strip()}"
    assert judge(benchmarks, text, action="cut", margin=4).text == f"{BEFORE[:-4].strip()}\n\n{AFTER[4:].strip()}"


def test_a_cut_is_clean_even_if_its_ends_make_an_answer(benchmarks: dict[str, Benchmark]) -> None:
    words = ANSWER.split()
    text = " ".join([*words[:8], ANSWER, *words[8:]])
    assert judge(benchmarks, f"{text} and more", action="cut").text == "and more"


def test_a_cut_that_leaves_nothing_or_many_pieces_drops(benchmarks: dict[str, Benchmark]) -> None:
    assert judge(benchmarks, ANSWER, action="cut").reason == CONTAMINATED
    assert judge(benchmarks, f"{ANSWER} x {ANSWER} x", action="cut", max_cuts=1).reason == CONTAMINATED


def checks(benchmarks: dict[str, Benchmark], ngram: int = 13) -> Contamination:
    return Contamination(step="contamination", benchmarks=benchmarks, ngram=ngram, action="drop", margin=0, max_cuts=0)


def test_the_coverage_says_what_was_checked(benchmarks: dict[str, Benchmark]) -> None:
    manifest = coverage([Chain(steps=(checks(benchmarks),))])
    checked = manifest.benchmarks["speeches"]
    assert (manifest.ngram, checked.rows, checked.short_rows) == (13, 2, 1)
    assert checked.sha256 == benchmarks["speeches"].sha256
    assert [manifest.benchmark_of(task) for task in ("speeches_1863", "essays")] == ["speeches", None]


def test_what_is_checked_before_texts_are_repaired_is_not_covered(benchmarks: dict[str, Benchmark]) -> None:
    repair, check = Unicode(step="unicode", mojibake=True, controls=True, normalization=None), checks(benchmarks)
    assert coverage([Chain(steps=(repair, check))]).benchmarks
    assert not coverage([Chain(steps=(check, repair))]).benchmarks


def test_what_only_one_chain_checks_is_not_covered(benchmarks: dict[str, Benchmark]) -> None:
    both = Chain(steps=(checks(benchmarks | {"letters": benchmarks["speeches"]}),))
    one = Chain(steps=(checks(benchmarks, ngram=8), checks({}, ngram=20)))
    assert coverage([both, one]).benchmarks.keys() == {"speeches"}
    assert coverage([both, one]).ngram == 20
    nothing = Manifest(ngram=0, benchmarks={})
    assert coverage([both, Chain(steps=())]) == coverage([]) == nothing


def test_data_that_is_not_the_pinned_is_refused_with_its_digest(benchmarks: dict[str, Benchmark]) -> None:
    data = benchmarks["speeches"].folder / "test.jsonl"
    data.write_text(data.read_text() + '{"question": "New?"}\n')
    found = sha256_tree(data.parent)
    with pytest.raises(UserError, match=rf"Benchmark 'speeches': .* has the digest {found}, not {'[0-9a-f]' * 64}\."):
        checks(benchmarks).build()
    shutil.rmtree(data.parent)
    with pytest.raises(UserError, match=r"Benchmark 'speeches': '.*' is no folder"):
        checks(benchmarks).build()


def known() -> Iterator[tuple[str, str, str]]:
    answers = shared("curation") / "decontamination" / "ngram13_overlaps.jsonl"
    for line in answers.read_text().splitlines():
        answer = json.loads(line)
        for file in answer["corpus_files"]:
            yield file, answer["task"], f"{answer['file'].split('/', 1)[1]}:{answer['row']}"


def test_all_known_overlaps_are_found_and_no_others_of_their_rows() -> None:
    wanted = set(known())
    bench, corpus = shared("bench"), shared("corpus")
    tasks = sorted({task for _, task, _ in wanted})
    benchmarks = {name: pinned(bench / name, ("test", "validation"), (name,)) for name in tasks}
    step = Contamination(
        step="contamination", benchmarks=benchmarks, ngram=13, action="tag", margin=0, max_cuts=0
    ).build()
    files = sorted(path for path in corpus.rglob("*") if path.is_file() and path.name != "SOURCES.tsv")
    verdicts = step([document(path.read_bytes().decode(errors="replace")) for path in files])
    found = {
        (path.relative_to(corpus.parent).as_posix(), finding.benchmark, finding.row)
        for path, verdict in zip(files, verdicts, strict=True)
        for finding in Finding.of(verdict.tags)
    }
    assert found == wanted
