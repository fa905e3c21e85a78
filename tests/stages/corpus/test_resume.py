"""A source that was taken stays taken when another one fails, and is used again only for the same."""

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from stages.corpus import resume
from stages.corpus.resume import KEPT, take_or_keep
from stages.corpus.sources import FilesSource, UrlSource
from stages.corpus.take import Taken
from stages.errors import UserError
from stages.settings import validate
from tests.stages.corpus.web import Web

ALLOWED = frozenset({"MIT"})
WHOLE = {"documents/web-00000.parquet", "references/web.jsonl", "refused/web.jsonl"}


@pytest.fixture
def web(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Web]:
    monkeypatch.chdir(tmp_path)
    with Web() as running:
        running.files["/a.txt"] = b"a text\n"
        yield running


def source(web: Web, **changes: Any) -> UrlSource:
    file = {"url": f"{web.url}/a.txt", "sha256": hashlib.sha256(b"a text\n").hexdigest()}
    settings = {"kind": "url", "domain": "prose", "license": "MIT", "files": {"a.txt": file}, **changes}
    return validate("source", UrlSource, settings, "test")


def attempt(taken_from: Any, folder: str, allowed: frozenset[str] = ALLOWED) -> Taken:
    return take_or_keep("web", taken_from, allowed, 1 << 20, Path(folder, "documents"))


def contents(folder: str) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in Path(folder).rglob("*") if path.is_file()}


def test_a_source_that_was_taken_is_not_asked_for_again(web: Web) -> None:
    first = attempt(source(web), "one")
    web.log.clear()
    assert attempt(source(web), "two") == first
    assert contents("two") == contents("one")
    assert set(contents("two")) == WHOLE
    assert not web.log


@pytest.mark.parametrize("change", [{"domain": "other"}, {"exclude": None}, {"license": "Apache-2.0"}])
def test_other_settings_take_it_anew_and_drop_the_old(change: dict[str, Any], web: Web) -> None:
    attempt(source(web), "one")
    web.log.clear()
    settings = source(web, **change) if "exclude" not in change else source(web)
    allowed = ALLOWED if "exclude" not in change else frozenset({"MIT", "ISC"})
    attempt(settings, "two", allowed)
    assert web.log
    assert len(list(KEPT.iterdir())) == 1


def test_a_source_that_failed_leaves_nothing(web: Web) -> None:
    web.files["/a.txt"] = b"another text\n"
    with pytest.raises(UserError, match=r"Source 'web': 'a\.txt' of .* not the pinned"):
        attempt(source(web), "one")
    assert not list(KEPT.iterdir())
    assert not Path("one").exists()


def test_files_without_a_digest_are_read_every_time(web: Web) -> None:
    Path("texts").mkdir()
    Path("texts/a.txt").write_text("a text\n")
    unpinned = validate(
        "source", FilesSource, {"kind": "files", "domain": "prose", "root": "texts", "license": "MIT"}, "test"
    )
    with pytest.raises(UserError, match="has no sha256"):
        attempt(unpinned, "one")
    assert not KEPT.exists()


def test_a_whole_snapshot_keeps_nothing_beside_it(web: Web) -> None:
    attempt(source(web), "one")
    resume.forget_all()
    assert not list(Path("out").iterdir())
    assert set(contents("one")) == WHOLE
