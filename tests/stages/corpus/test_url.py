"""What is at a URL comes into a snapshot if it is what its digest says, whatever a server does on the way."""

import gzip
import hashlib
import importlib.util
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from fsspec.implementations.memory import MemoryFileSystem  # type: ignore[import-untyped]  # it ships no types

from stages.corpus.sources import UrlSource
from stages.corpus.stores import reading
from stages.corpus.url import UrlStore
from stages.errors import UserError
from stages.settings import validate
from tests.stages.corpus.web import Fault, Web

TEXT = "".join(
    f"Line {number} of a text.\n" for number in range(150_000)
)  # some MB: what one packet holds is lost with it


@pytest.fixture
def web() -> Iterator[Web]:
    with Web() as running:
        running.files["/a.txt"] = TEXT.encode()
        yield running


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Seconds that were asked to be waited; nobody does."""
    waited: list[float] = []
    monkeypatch.setattr(time, "sleep", waited.append)
    return waited


def settings(files: dict[str, tuple[str, bytes]]) -> UrlSource:
    """Settings of files by name: a URL, and the content whose digest pins it."""
    pinned = {
        name: {"url": url, "sha256": hashlib.sha256(content).hexdigest()} for name, (url, content) in files.items()
    }
    return validate("source", UrlSource, {"kind": "url", "domain": "prose", "license": "MIT", "files": pinned}, "test")


def store(web: Web, folder: Path, path: str = "/a.txt") -> UrlStore:
    return UrlStore(settings({"a.txt": (web.url + path, TEXT.encode())}), folder)


def texts(opened: UrlStore) -> dict[str, str]:
    return {each.origin: each.text for each in reading(opened, opened._source).candidates}


def test_files_are_read_under_the_names_that_the_source_gives_them(web: Web, tmp_path: Path) -> None:
    zipped = gzip.compress(b'{"text": "in a row"}\n', mtime=0)
    web.files["/download?id=7"] = zipped
    source = settings(
        {"b/rows.jsonl.gz": (f"{web.url}/download?id=7", zipped), "a.txt": (f"{web.url}/a.txt", TEXT.encode())}
    )
    opened = UrlStore(source, tmp_path)
    assert texts(opened) == {"a.txt": TEXT, "b/rows.jsonl.gz:1": "in a row"}
    [first, second] = opened.listing().files
    assert (first.size, first.etag) == (len(TEXT), f'"{len(TEXT)}"')
    assert second.digest == f"sha256:{hashlib.sha256(zipped).hexdigest()}"


def test_file_urls_are_read_and_stay_out_of_the_manifest(tmp_path: Path) -> None:
    (tmp_path / "x y.txt").write_text(TEXT)
    source = settings({"a.txt": (f"file://{tmp_path}/x y.txt", TEXT.encode())})
    assert texts(UrlStore(source, tmp_path / "fetched")) == {"a.txt": TEXT}
    assert str(tmp_path) not in str(source.public())


def test_redirects_are_followed(web: Web, tmp_path: Path) -> None:
    web.redirects.update({"/old": "/older", "/older": "/a.txt"})
    assert texts(store(web, tmp_path, "/old")) == {"a.txt": TEXT}


def test_a_server_that_says_no_lengths_and_knows_no_ranges_is_read(web: Web, tmp_path: Path) -> None:
    web.ranges = web.lengths = False
    assert texts(store(web, tmp_path)) == {"a.txt": TEXT}


def test_another_digest_is_refused_with_both(web: Web, tmp_path: Path) -> None:
    other = TEXT.replace("Line 7 ", "Line 8 ").encode()
    web.files["/a.txt"] = other
    digests = [hashlib.sha256(data).hexdigest() for data in (other, TEXT.encode())]
    with pytest.raises(UserError, match=rf"'a\.txt' of .* is sha256:{digests[0]} .*the pinned sha256:{digests[1]}"):
        texts(store(web, tmp_path))
    web.files["/a.txt"] = TEXT.encode()
    assert texts(store(web, tmp_path)) == {"a.txt": TEXT}


@pytest.mark.parametrize("status", [429, 500, 503, 0])
def test_a_passing_fault_changes_nothing(status: int, web: Web, tmp_path: Path, waits: list[float]) -> None:
    web.faults.append(Fault("/a.txt", status, times=2))
    assert texts(store(web, tmp_path)) == {"a.txt": TEXT}
    assert waits


def test_a_servers_retry_after_is_waited(web: Web, tmp_path: Path, waits: list[float]) -> None:
    web.faults.append(Fault("/a.txt", 429, headers={"Retry-After": "37"}))
    texts(store(web, tmp_path))
    assert waits == [37]


def test_a_body_that_breaks_off_is_gone_on_from(web: Web, tmp_path: Path, waits: list[float]) -> None:
    web.faults += [Fault("/a.txt", cut=1_500_000), Fault("/a.txt", cut=1_000_000)]
    assert texts(store(web, tmp_path)) == {"a.txt": TEXT}
    begun = [start for _, start in web.log]
    assert begun[0] == 0 < begun[1] <= 1_500_000
    assert begun[1] < begun[2] <= 2_500_000


def test_without_ranges_a_body_that_breaks_off_is_fetched_again(web: Web, tmp_path: Path, waits: list[float]) -> None:
    web.ranges = False
    web.faults.append(Fault("/a.txt", cut=1_500_000))
    assert texts(store(web, tmp_path)) == {"a.txt": TEXT}


def test_a_second_attempt_goes_on_where_the_first_gave_up(web: Web, tmp_path: Path, waits: list[float]) -> None:
    web.faults += [Fault("/a.txt", cut=1_500_000), Fault("/a.txt", 500, times=6)]
    with pytest.raises(UserError, match=rf"Gave up after 6 attempts: '{web.url}/a\.txt' is answered by 500"):
        texts(store(web, tmp_path))
    web.log.clear()
    assert texts(store(web, tmp_path)) == {"a.txt": TEXT}
    [(_, begun)] = web.log
    assert 0 < begun <= 1_500_000


def test_a_server_whose_file_became_shorter_is_not_asked_for_ever(web: Web, tmp_path: Path, waits: list[float]) -> None:
    opened = store(web, tmp_path)
    found = reading(opened, opened._source).candidates
    web.files["/a.txt"] = TEXT.encode()[:1000]
    with pytest.raises(UserError, match=r"'.*/a\.txt'"):
        next(found)


def test_what_is_not_there_is_refused_at_once(web: Web, tmp_path: Path, waits: list[float]) -> None:
    with pytest.raises(UserError, match=rf"'{web.url}/none\.txt' is answered by 404"):
        texts(store(web, tmp_path, "/none.txt"))
    assert not waits


def test_a_file_that_is_not_there_is_refused_at_once(tmp_path: Path, waits: list[float]) -> None:
    with pytest.raises(UserError, match=r"'file:///none/a\.txt' cannot be read: FileNotFoundError"):
        texts(UrlStore(settings({"a.txt": ("file:///none/a.txt", b"")}), tmp_path))
    assert not waits


@pytest.mark.parametrize(("protocol", "package"), [("s3", "s3fs"), ("gs", "gcsfs")])
def test_a_protocol_without_its_package_says_what_to_install(protocol: str, package: str, tmp_path: Path) -> None:
    if importlib.util.find_spec(package):
        pytest.skip(f"{package} is installed")
    with pytest.raises(UserError, match=rf"'{protocol}://bucket/a\.txt' needs the package {package}"):
        texts(UrlStore(settings({"a.txt": (f"{protocol}://bucket/a.txt", b"")}), tmp_path))


class _Bucket(MemoryFileSystem):
    """An object store in memory, in the place of s3's and gs's own file systems."""

    protocol = ("s3", "gs")

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return "/" + path.rpartition("://")[2].lstrip("/")


@pytest.mark.parametrize("protocol", ["s3", "gs"])
def test_an_object_store_is_read_through_its_file_system(
    protocol: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules["fsspec.registry"]._registry, protocol, _Bucket)
    url = f"{protocol}://bucket/a.txt"
    _Bucket().pipe({url: TEXT.encode()})
    assert texts(UrlStore(settings({"a.txt": (url, TEXT.encode())}), tmp_path)) == {"a.txt": TEXT}


@pytest.mark.parametrize(
    "change",
    [
        {"a.txt": "ftp://example.org/a.txt"},
        {"a.txt": "simplecache::https://example.org/a.txt"},
        {"a.txt": "https://user:secret@example.org/a.txt"},
        {"../a.txt": "https://example.org/a.txt"},
        {"/a.txt": "https://example.org/a.txt"},
        {"a/../b.txt": "https://example.org/a.txt"},
    ],
)
def test_other_protocols_secrets_and_names_outside_are_refused(change: dict[str, str]) -> None:
    with pytest.raises(UserError, match=r"source\.files"):
        settings({name: (url, b"") for name, url in change.items()})
