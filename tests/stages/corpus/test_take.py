"""Sources of all kinds in one snapshot: what is recorded of them, and what is kept when one of them fails."""

import gzip
import hashlib
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from stages.corpus.documents import read
from stages.errors import UserError
from stages.files import read_json, read_jsonl, sha256_tree
from tests.hub.server import TOKEN, Blob, Server
from tests.stages.corpus.test_git import git_in
from tests.stages.corpus.web import Fault, Web

OUT = Path("out/snapshot")
Run = Callable[..., None]
Params = dict[str, Any]
ROWS = b"".join(json.dumps({"text": f"Page {number}\n", "license": "MIT"}).encode() + b"\n" for number in range(9))
PAGES = gzip.compress(ROWS, mtime=0)


@pytest.fixture
def web() -> Iterator[Web]:
    with Web() as running:
        running.files.update({"/a.txt": b"A text\n", "/c.jsonl.gz": PAGES})
        yield running


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    with Server() as running:
        files = f"{running.url}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", running.url)  # as HF_ENDPOINT does, before an import
        monkeypatch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", files)
        yield running


@pytest.fixture
def sources(params: Params, web: Web, hub: Server, run_stages: Run, monkeypatch: pytest.MonkeyPatch) -> Params:
    """Three sources, taken in this order: a file of a server, a data set of a hub, and `c`."""
    monkeypatch.setattr(time, "sleep", lambda _: None)
    commit = hub.create("testers/texts").commit("main", {"b.jsonl.gz": Blob(PAGES, large=True)})
    dataset = {"kind": "hub", "dataset": "testers/texts", "revision": commit, "include": ["*.jsonl.gz"]}
    params["snapshot"]["sources"] = {
        "a": url_source(web, "a.txt", b"A text\n"),
        "b": {**dataset, "domain": "prose", "license_column": "license"},
        "c": url_source(web, "c.jsonl.gz", PAGES),
    }
    sources: Params = params["snapshot"]["sources"]
    return sources


def url_source(web: Web, name: str, content: bytes) -> Params:
    file = {"url": f"{web.url}/{name}", "sha256": hashlib.sha256(content).hexdigest()}
    return {"kind": "url", "domain": "prose", "license": "MIT", "files": {name: file}}


def folder_source(root: str, sha256: str) -> Params:
    return {"kind": "files", "domain": "prose", "license": "MIT", "root": root, "sha256": sha256}


def test_the_files_of_a_source_are_recorded_with_size_and_digest(sources: Params, run_stages: Run) -> None:
    run_stages("snapshot")
    [file] = read_jsonl(OUT / "references/b.jsonl")
    digest, commit = hashlib.sha256(PAGES).hexdigest(), sources["b"]["revision"]
    assert file == {
        "path": "b.jsonl.gz",
        "size": len(PAGES),
        "digest": f"sha256:{digest}",
        "etag": digest,
        "revision": commit,
    }
    manifest = read_json(OUT / "manifest.json")["sources"]
    assert manifest["b"]["versions"] == {"testers/texts": commit}
    assert {name: source["documents"] for name, source in manifest.items()} == {"a": 1, "b": 9, "c": 9}
    assert {path.name for path in OUT.parent.iterdir()} == {"snapshot"}


def miss(web: Web) -> None:
    del web.files["/c.jsonl.gz"]


def fail(web: Web) -> None:
    web.faults.append(Fault("/c.jsonl.gz", 500, times=100))


def refuse(web: Web) -> None:
    web.faults.append(Fault("/c.jsonl.gz", 429, times=100))


def hang_up(web: Web) -> None:
    web.faults.append(Fault("/c.jsonl.gz", 0, times=100))


def alter(web: Web) -> None:
    web.files["/c.jsonl.gz"] = gzip.compress(ROWS[:-30], mtime=0)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (miss, r"'http://\S+/c\.jsonl\.gz' is answered by 404"),
        (fail, r"Gave up after 6 attempts: 'http://\S+/c\.jsonl\.gz' is answered by 500"),
        (refuse, r"Gave up after 6 attempts: 'http://\S+/c\.jsonl\.gz' is answered by 429"),
        (hang_up, r"Gave up after 6 attempts: 'http://\S+/c\.jsonl\.gz'"),
        (alter, r"'c\.jsonl\.gz' of the source's files is sha256:\S+ .*not the pinned sha256:"),
    ],
)
def test_when_a_source_fails_the_others_are_kept_and_only_it_is_taken_again(
    spoil: Callable[[Web], None], message: str, sources: Params, web: Web, hub: Server, run_stages: Run
) -> None:
    run_stages("snapshot")
    whole = sha256_tree(OUT)
    OUT.rename("elsewhere")
    spoil(web)
    with pytest.raises(UserError, match=f"^Source 'c': {message}"):
        run_stages("snapshot")
    assert not OUT.exists()
    assert not OUT.with_name("snapshot.partial").exists()
    web.files["/c.jsonl.gz"] = PAGES
    web.faults.clear()
    web.log.clear()
    hub.log.clear()
    run_stages("snapshot")
    assert {path for path, _ in web.log} == {"/c.jsonl.gz"}
    assert not hub.log
    assert sha256_tree(OUT) == whole


def truncate(root: Path) -> None:
    (root / "d.jsonl.gz").write_bytes(PAGES[:-20])


def circle(root: Path) -> None:
    (root / "around").symlink_to(".")


@pytest.mark.parametrize(
    ("spoil", "message"),
    [(truncate, r"'d\.jsonl\.gz' is damaged"), (circle, "'around' in 'texts' is a link to nothing, or to a folder")],
)
def test_a_folder_that_is_damaged_costs_no_download(
    spoil: Callable[[Path], None], message: str, sources: Params, web: Web, hub: Server, run_stages: Run
) -> None:
    Path("texts").mkdir()
    sources["d"] = folder_source("texts", "0" * 64)
    Path("texts/d.jsonl.gz").write_bytes(PAGES)
    with pytest.raises(UserError, match="is now") as raised:
        run_stages("snapshot")
    sources["d"]["sha256"] = str(raised.value).partition("is now '")[2][:64]
    spoil(Path("texts"))
    web.log.clear()
    with pytest.raises(UserError, match=f"^Source 'd': {message}"):
        run_stages("snapshot")
    Path("texts/around").unlink(missing_ok=True)
    Path("texts/d.jsonl.gz").write_bytes(PAGES)
    run_stages("snapshot")
    assert len(list(read(sorted((OUT / "documents").glob("*.parquet"))))) == 28
    assert not web.log


def test_a_text_that_was_relicensed_is_judged_by_the_license_at_its_pin(params: Params, run_stages: Run) -> None:
    git = git_in(Path("book").absolute())
    sources = params["snapshot"]["sources"] = {}
    for name, terms in (("first", "MIT"), ("later", "CC-BY-NC-SA-4.0")):
        Path("book/book.txt").write_text(f"An edition under {terms}.\n")
        git("add", ".")
        git("commit", "--quiet", "--message", terms)
        commit = git("rev-parse", "HEAD")
        pin = {"kind": "git", "repository": "book", "commit": commit}
        sources[name] = {**pin, "domain": "books", "license": terms, "license_revision": commit}
    run_stages("snapshot")
    [document] = read(sorted((OUT / "documents").glob("*.parquet")))
    assert (document.source, document.license) == ("first", "MIT")
    [row] = read_jsonl(OUT / "refused.jsonl")
    assert (row["source"], row["license"], row["reason"]) == ("later", "CC-BY-NC-SA-4.0", "license_not_allowed")
    sources["first"]["commit"] = sources["later"]["commit"]
    with pytest.raises(UserError, match=r"the license was read at '\w{40}', but the source is pinned to '\w{40}'"):
        run_stages("snapshot")
