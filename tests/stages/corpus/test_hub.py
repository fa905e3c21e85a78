"""What a data set's commit holds comes into a snapshot, whatever a Hub does on the way; anything else does not."""

import hashlib
import io
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from stages.corpus.hub import HubStore
from stages.corpus.sources import HubSource
from stages.corpus.stores import reading
from stages.errors import UserError
from stages.settings import validate
from tests.hub.server import TOKEN, Blob, Fault, Repository, Server

REPO = "testers/texts"
README = b"""---
license: mit
configs:
- config_name: books
  data_files:
  - split: train
    path: books/train-*.parquet
  - split: test
    path: [books/test.jsonl]
- config_name: pages
  data_files: pages/*.jsonl
- config_name: notes
  data_dir: pages
  data_files: {validation: "n*.jsonl"}
---
# Texts
"""


def parquet(*texts: str) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(pa.table({"text": texts, "license": ["MIT"] * len(texts)}), buffer, row_group_size=1)
    return buffer.getvalue()


def lines(*texts: str) -> bytes:
    return b"".join(json.dumps({"text": text, "license": "MIT"}).encode() + b"\n" for text in texts)


FILES = {
    "README.md": Blob(README, large=False),
    "books/train-0.parquet": Blob(parquet("one", "two"), large=True),
    "books/train-1.parquet": Blob(parquet("three"), large=True),
    "books/test.jsonl": Blob(lines("four"), large=False),
    "books/cover.png": Blob(b"\x89PNG", large=True),
    "pages/a.jsonl": Blob(lines("five"), large=False),
    "pages/notes.jsonl": Blob(lines("six"), large=False),
}


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    with Server() as running:
        yield running


@pytest.fixture
def dataset(server: Server) -> Repository:
    repository = server.create(REPO)
    repository.tags["v1"] = repository.commit("main", FILES)
    repository.commit("main", {**FILES, "books/train-0.parquet": Blob(parquet("changed later"), large=True)})
    return repository


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Seconds that were asked to be waited; nobody does."""
    waited: list[float] = []
    monkeypatch.setattr(time, "sleep", waited.append)
    return waited


def store(server: Server, folder: Path, **settings: Any) -> HubStore:
    pinned = {"kind": "hub", "domain": "prose", "dataset": REPO, "license_column": "license"}
    return HubStore(validate("source", HubSource, {**pinned, **settings}, "test"), folder, server.url)


def texts(opened: HubStore) -> dict[str, str]:
    return {each.origin: each.text for each in reading(opened, opened._source).candidates}


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"config": "books", "split": "train"}, ["one", "two", "three"]),
        ({"config": "books", "split": "test"}, ["four"]),
        ({"config": "books"}, ["four", "one", "two", "three"]),
        ({"config": "books", "exclude": ["*-1.parquet"]}, ["four", "one", "two"]),
        ({"config": "pages", "split": "train"}, ["five", "six"]),
        ({"config": "notes"}, ["six"]),
        ({"include": ["*.jsonl"]}, ["four", "five", "six"]),
    ],
)
def test_the_commits_files_are_read_by_configuration_split_and_patterns(
    settings: dict[str, Any], expected: list[str], server: Server, dataset: Repository, tmp_path: Path
) -> None:
    assert list(texts(store(server, tmp_path, revision=dataset.tags["v1"], **settings)).values()) == expected


def test_sizes_and_digests_are_recorded_as_the_hub_has_them(
    server: Server, dataset: Repository, tmp_path: Path
) -> None:
    commit = dataset.tags["v1"]
    listed = store(server, tmp_path, revision=commit, config="books").listing()
    assert listed.versions == {REPO: commit}
    assert {file.path: (file.size, file.digest) for file in listed.files} == {
        path: (len(FILES[path].content), f"sha256:{FILES[path].sha256}" if FILES[path].large else f"git-blob:{git_id}")
        for path, git_id in ((path, FILES[path].git_id) for path in FILES)
        if path.startswith("books/t")
    }


@pytest.mark.parametrize("name", ["main", "v1"])
def test_a_branch_or_tag_is_refused_with_its_commit(
    name: str, server: Server, dataset: Repository, tmp_path: Path
) -> None:
    commit = dataset.resolve(name)
    with pytest.raises(UserError, match=rf"revision = '{name}' of data set '{REPO}'.* {commit} now"):
        store(server, tmp_path, revision=name, config="books").listing()


def test_a_branch_is_refused_offline_too(
    server: Server, dataset: Repository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match="HF_HUB_OFFLINE is set: the Hub cannot be asked"):
        store(server, tmp_path, revision="main", config="books").listing()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"dataset": "testers/none", "config": "books"}, "Repository Not Found.*'testers/none'"),
        ({"revision": "0" * 40, "config": "books"}, "Revision Not Found.*check its name and commit"),
        ({"config": "films"}, "config = 'films' is not in the README.*'books', 'pages', 'notes'"),
        ({"config": "books", "split": "dev"}, "no data_files for split = 'dev'; it has 'train', 'test'"),
        ({"include": ["*.png"]}, "'books/cover.png' in data set 'testers/texts' .* is none of"),
    ],
)
def test_what_the_data_set_has_not_is_an_error_that_says_what_it_has(
    settings: dict[str, Any], message: str, server: Server, dataset: Repository, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=message):
        texts(store(server, tmp_path, **{"revision": dataset.tags["v1"], **settings}))


@pytest.mark.parametrize("front_matter", [b"---\nconfigs: 7\n---\n", b"---\nconfigs: [\n---\n", b"---\n\xff\n---\n"])
def test_a_readme_without_readable_configurations_is_named(
    front_matter: bytes, server: Server, dataset: Repository, tmp_path: Path
) -> None:
    commit = dataset.commit("main", {**FILES, "README.md": Blob(front_matter, large=False)})
    with pytest.raises(UserError, match=r"The README of data set 'testers/texts' .* no readable `configs`"):
        texts(store(server, tmp_path, revision=commit, config="books"))


@pytest.mark.parametrize("path", ["/tree/", "/resolve/.*train-1"])
@pytest.mark.parametrize("status", [429, 500, 503, 0])
def test_a_passing_fault_changes_nothing(
    status: int, path: str, server: Server, dataset: Repository, tmp_path: Path, waits: list[float]
) -> None:
    server.faults.append(Fault("GET", path, status, times=2))
    found = texts(store(server, tmp_path, revision=dataset.tags["v1"], config="books", split="train"))
    assert list(found.values()) == ["one", "two", "three"]
    assert waits


def test_the_hubs_retry_after_is_waited(
    server: Server, dataset: Repository, tmp_path: Path, waits: list[float]
) -> None:
    server.faults.append(Fault("GET", "/resolve/.*train-1", 429, headers={"Retry-After": "37"}))
    texts(store(server, tmp_path, revision=dataset.tags["v1"], config="books", split="train"))
    assert any(37 <= wait < 39 for wait in waits)


@pytest.mark.parametrize("status", [429, 500, 0])
def test_a_lasting_fault_is_an_error_that_names_the_file(
    status: int, server: Server, dataset: Repository, tmp_path: Path, waits: list[float]
) -> None:
    server.faults.append(Fault("GET", "/resolve/.*train-1", status, times=1000))
    with pytest.raises(UserError, match=r"Gave up after 6 attempts: 'books/train-1\.parquet' of data set"):
        texts(store(server, tmp_path, revision=dataset.tags["v1"], config="books", split="train"))


def test_a_file_that_is_gone_is_refused_at_once(
    server: Server, dataset: Repository, tmp_path: Path, waits: list[float]
) -> None:
    server.faults.append(Fault("HEAD", "/resolve/.*train-1", 404, times=1000))
    with pytest.raises(UserError, match=r"The Hub refused.*404.*This was about 'books/train-1\.parquet' of data set"):
        texts(store(server, tmp_path, revision=dataset.tags["v1"], config="books", split="train"))
    assert not waits


def test_bytes_that_are_not_the_commits_are_refused_before_they_are_read(
    server: Server, dataset: Repository, tmp_path: Path
) -> None:
    commit = dataset.tags["v1"]
    opened = store(server, tmp_path, revision=commit, config="books", split="train")
    found = reading(opened, opened._source).candidates
    genuine = FILES["books/train-1.parquet"].content
    flipped = genuine[:40] + bytes([genuine[40] ^ 1]) + genuine[41:]
    dataset.commits[commit] = {**FILES, "books/train-1.parquet": Blob(flipped, large=True)}
    assert [next(found).text, next(found).text] == ["one", "two"]
    digests = "sha256:{}.*not the pinned sha256:{}".format(
        *(hashlib.sha256(data).hexdigest() for data in (flipped, genuine))
    )
    with pytest.raises(UserError, match=rf"'books/train-1\.parquet' of data set .* is {digests}"):
        next(found)
    dataset.commits[commit] = FILES
    assert list(texts(opened).values()) == ["one", "two", "three"]


def test_a_second_attempt_downloads_only_what_the_first_did_not(
    server: Server, dataset: Repository, tmp_path: Path, waits: list[float]
) -> None:
    opened = store(server, tmp_path, revision=dataset.tags["v1"], config="books", split="train")
    server.faults.append(Fault("GET", "/resolve/.*train-1", 500, times=6))
    with pytest.raises(UserError, match="Gave up"):
        texts(opened)
    server.log.clear()
    assert list(texts(opened).values()) == ["one", "two", "three"]
    assert [path.rpartition("/")[2] for method, path in server.log if method == "GET" and "/resolve/" in path] == [
        "train-1.parquet"
    ]
