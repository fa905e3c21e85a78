import base64
import gzip
import hashlib
import json
import re
import shutil
import tracemalloc
from collections.abc import Callable
from itertools import groupby
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from stages.corpus.candidates import Candidate
from stages.corpus.docstrings import docstrings
from stages.corpus.documents import Document, read
from stages.corpus.gate import Record, admit
from stages.corpus.licenses import License
from stages.corpus.sources import FilesSource
from stages.errors import UserError
from stages.files import jsonl_writer, read_json, read_jsonl, sha256_file, sha256_tree
from stages.settings import validate

OUT = Path("out/snapshot")
Run = Callable[..., None]
Params = dict[str, Any]
TEXTS = {"kind": "files", "domain": "prose", "root": "texts", "license": "MIT"}


def documents(source: str = "*") -> list[Document]:
    return list(read(sorted((OUT / "documents").glob(f"{source}-*.parquet"))))


def files_source(params: Params, run_stages: Run, **settings: Any) -> None:
    """Make `texts/` the only source and take it, pinned as it is."""
    source = {**TEXTS, **settings}
    params["snapshot"]["sources"] = {"texts": source}
    with pytest.raises(UserError, match="has no sha256") as raised:
        run_stages("snapshot")
    source["sha256"] = str(raised.value)[-64:]
    run_stages("snapshot")


def install(site: Path, files: dict[str, bytes], terms: str = "MIT") -> None:
    """Install distribution `toy` 1.0 into `site` as an installer does, RECORD included."""
    info = site / "toy-1.0.dist-info"
    info.mkdir(parents=True)
    metadata = f"Metadata-Version: 2.4\nName: toy\nVersion: 1.0\nLicense-Expression: {terms}\n".encode()
    record = "toy-1.0.dist-info/RECORD,,\n"
    for path, data in {**files, "toy-1.0.dist-info/METADATA": metadata}.items():
        (site / path).parent.mkdir(parents=True, exist_ok=True)
        (site / path).write_bytes(data)
        digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
        record += f"{path},sha256={digest},{len(data)}\n"
    (info / "RECORD").write_text(record)


@pytest.fixture
def toy(params: Params, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A site folder on the path, whose distribution `toy` is the only source."""
    params["snapshot"]["sources"] = {
        "toy": {"kind": "installed", "domain": "code", "license": "metadata", "pin": {"distributions": ["toy"]}}
        | {"include": ["*.py"]}
    }
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    return tmp_path / "site"


def test_a_document_says_what_it_is_and_where_it_comes_from(run_stages: Run) -> None:
    run_stages("snapshot")
    found = {document.origin.split("/", 1)[1]: document for document in documents()}
    decoder = found["json/decoder.py"]
    assert decoder.text == Path(json.decoder.__file__).read_text()
    assert decoder.sha256 == hashlib.sha256(decoder.text.encode()).hexdigest()
    assert (decoder.domain, decoder.source, decoder.license) == ("code", "stdlib", "Python-2.0.1")
    assert found["pydoc_data/topics.py#while"].domain == "prose"


def test_ids_are_unique_and_origins_sorted(run_stages: Run) -> None:
    run_stages("snapshot")
    assert len({document.id for document in documents()}) == len(documents())
    origins = [document.origin for document in documents("stdlib")]
    assert origins == sorted(origins)


def test_the_manifest_counts_and_digests_what_is_there(run_stages: Run) -> None:
    run_stages("snapshot")
    for name, source in read_json(OUT / "manifest.json")["sources"].items():
        texts = [document.text.encode() for document in documents(name)]
        assert (source["documents"], source["bytes"]) == (len(texts), sum(map(len, texts)))
        shards = {path.name: path for path in (OUT / "documents").glob(f"{name}-*")}
        assert {shard: file["sha256"] for shard, file in source["files"].items()} == {
            shard: sha256_file(path) for shard, path in shards.items()
        }


def test_shards_hold_no_more_text_than_the_parameter_says(params: Params, run_stages: Run) -> None:
    run_stages("snapshot")
    shards = sorted((OUT / "documents").glob("stdlib-*"))
    assert len(shards) > 1
    for shard in shards:
        length = sum(len(document.text.encode()) for document in read([shard]))
        assert length <= params["snapshot"]["shard_bytes"]


def test_no_output_names_the_machines_folders(params: Params, run_stages: Run, toy: Path) -> None:
    install(toy, {"toy/a.py": b"a = 1\n"})
    run_stages("snapshot")
    content = b"".join(path.read_bytes() for path in OUT.rglob("*") if path.is_file())
    assert str(toy.parent).encode() not in content


def test_a_file_changed_after_installation_is_an_error_with_both_digests(run_stages: Run, toy: Path) -> None:
    install(toy, {"toy/a.py": b"a = 1\n"})
    (toy / "toy/a.py").write_bytes(b"a = 2\n")
    with pytest.raises(UserError, match=r"'toy==1\.0/toy/a\.py' has sha256 \S{43} but its RECORD says \S{43}"):
        run_stages("snapshot")
    assert not OUT.exists()


def test_only_recorded_files_inside_site_packages_are_read(run_stages: Run, toy: Path) -> None:
    install(toy, {"toy/a.py": b"a = 1\n", "../bin/script.py": b"#!/machine/bin/python\n"})
    (toy / "toy/b.py").write_bytes(b"b = 1\n")
    run_stages("snapshot")
    assert [document.origin for document in documents()] == ["toy==1.0/toy/a.py"]


def test_a_refused_document_is_counted_and_listed(run_stages: Run, toy: Path) -> None:
    install(toy, {"toy/a.py": b"a = 1\n"}, terms="MPL-2.0 AND MIT")
    run_stages("snapshot")
    [row] = read_jsonl(OUT / "refused.jsonl")
    assert (row["origin"], row["license"], row["reason"]) == (
        "toy==1.0/toy/a.py",
        "MPL-2.0 AND MIT",
        "license_not_allowed",
    )
    assert read_json(OUT / "manifest.json")["sources"]["toy"]["refused"] == {
        "license_not_allowed": {"bytes": 6, "documents": 1}
    }


def test_a_python_file_is_read_in_the_encoding_it_declares(run_stages: Run, toy: Path) -> None:
    text = "# -*- coding: latin-1 -*-\nname = 'Ångström'\r\n"
    install(toy, {"toy/a.py": text.encode("latin-1")})
    run_stages("snapshot")
    assert documents()[0].text == text


@pytest.mark.parametrize("data", [b"a = '\xff'\n", b"# coding: klingon\n"])
def test_a_file_that_does_not_decode_is_an_error_with_the_remedy(data: bytes, run_stages: Run, toy: Path) -> None:
    install(toy, {"toy/a.py": data})
    with pytest.raises(UserError, match=r"'toy==1\.0/toy/a\.py'.*`exclude`"):
        run_stages("snapshot")


def test_docstrings_come_dedented_in_source_order() -> None:
    code = '"""One."""\nclass A:\n    """Two.\n\n    More.\n    """\n    def f(self):\n        "Three."\n'
    code += 'def g():\n    "Four."\n'
    assert docstrings(code, "a.py") == "One.\n\nTwo.\n\nMore.\n\nThree.\n\nFour.\n"
    assert docstrings("a = 1\n", "a.py") == ""
    with pytest.raises(UserError, match=r"'a\.py' is not Python"):
        docstrings("a = \n", "a.py")


def test_every_format_of_files_is_read(params: Params, run_stages: Run) -> None:
    texts = Path("texts")
    (texts / "deep").mkdir(parents=True)
    rows = "".join(json.dumps({"text": text}) + "\n" for text in ("één", "two\n"))
    (texts / "a.txt").write_bytes(b"\xef\xbb\xbfline\r\n")
    (texts / "deep/b.md").write_text("# Title\n")
    (texts / "c.rst").write_text("Title\n=====\n")
    (texts / "d.jsonl").write_text(rows)
    (texts / "e.jsonl.gz").write_bytes(gzip.compress(rows.encode()))
    frames = [zstandard.compress(line.encode()) for line in rows.splitlines(keepends=True)]
    (texts / "f.jsonl.zst").write_bytes(b"".join(frames))
    pq.write_table(pa.table({"text": ["één", "two\n"], "other": [1, 2]}), texts / "g.parquet")
    files_source(params, run_stages)
    assert {document.origin: document.text for document in documents()} == {
        "a.txt": "line\r\n",
        "c.rst": "Title\n=====\n",
        "deep/b.md": "# Title\n",
        **{f"{name}:{n}": text for name in ("d.jsonl", "e.jsonl.gz", "f.jsonl.zst") for n, text in [(1, "één")]},
        **{f"{name}:{n}": text for name in ("d.jsonl", "e.jsonl.gz", "f.jsonl.zst") for n, text in [(2, "two\n")]},
        "g.parquet:1": "één",
        "g.parquet:2": "two\n",
    }


def test_each_row_may_state_its_license(params: Params, run_stages: Run) -> None:
    Path("texts").mkdir()
    rows = [{"text": "a", "license": "mit"}, {"text": "b", "license": "CC-BY-4.0"}, {"text": "c", "license": None}]
    Path("texts/a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    files_source(params, run_stages, license=None, license_column="license")
    assert [(document.text, document.license) for document in documents()] == [("a", "MIT")]
    assert [row["reason"] for row in read_jsonl(OUT / "refused.jsonl")] == ["license_not_allowed", "license_missing"]


def test_each_row_may_state_its_address_and_authors(params: Params, run_stages: Run) -> None:
    Path("texts").mkdir()
    rows = [
        {"text": "a", "link": "https://example.org/a", "by": ["Ada", "Bob"]},
        {"text": "b", "link": None, "by": "Ada"},
    ]
    Path("texts/a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    files_source(params, run_stages, url_column="link", author_column="by")
    assert [(document.url, document.author) for document in documents()] == [
        ("https://example.org/a", "Ada; Bob"),
        ("", "Ada"),
    ]


@pytest.mark.parametrize(
    ("column", "row", "message"),
    [
        ("license_column", {}, "has no column 'of'; it has 'text'"),
        ("license_column", {"of": 4}, r"column 'of': 4 is not the name of a license"),
        ("license_column", {"of": "\ud800"}, r"column 'of' holds '\\ud800': half a surrogate pair"),
        ("url_column", {}, "has no column 'of'; it has 'text'"),
        ("url_column", {"of": 4}, "column 'of' holds 4: no text"),
        ("author_column", {"of": ["Ada", {"name": "Bob"}]}, r"column 'of' holds {'name': 'Bob'}: no text"),
        ("author_column", {"of": "Ad\0a"}, r"column 'of' holds 'Ad\\x00a': nul character"),
    ],
)
def test_a_column_that_is_missing_or_of_another_type_is_named(
    column: str, row: Params, message: str, params: Params, run_stages: Run
) -> None:
    Path("texts").mkdir()
    Path("texts/a.jsonl").write_text(json.dumps({"text": "a", **row}) + "\n")
    source = {**TEXTS, column: "of"}
    params["snapshot"]["sources"] = {"texts": source | {"license": None} if column == "license_column" else source}
    with pytest.raises(UserError, match=rf"Source 'texts': 'a\.jsonl:1'.*{message}"):
        run_stages("snapshot")


def test_files_that_changed_since_they_were_pinned_are_refused(params: Params, run_stages: Run) -> None:
    Path("texts").mkdir()
    Path("texts/a.txt").write_text("one")
    files_source(params, run_stages)
    before = sha256_tree(OUT)
    Path("texts/a.txt").write_text("two")
    with pytest.raises(UserError, match=r"snapshot\.sources\.texts\.sha256 is '\w{64}' but the source is now '\w{64}'"):
        run_stages("snapshot")
    assert sha256_tree(OUT) == before
    assert not OUT.with_name("snapshot.partial").exists()


def test_bytes_do_not_depend_on_the_order_in_which_files_were_made(params: Params, run_stages: Run) -> None:
    names = [f"{letter}/{number}.txt" for letter in "ba" for number in range(8)]
    digests = set()
    for order in (names, names[::-1]):
        shutil.rmtree("texts", ignore_errors=True)
        for name in order:
            Path("texts", name).parent.mkdir(parents=True, exist_ok=True)
            Path("texts", name).write_text(f"text {name}")
        files_source(params, run_stages)
        digests.add(sha256_tree(OUT))
    assert len(digests) == 1


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("a.txt", b"ab\xff", r"'a\.txt' is not UTF-8, and its encoding can not be told.*`exclude`"),
        ("a.bin", b"", r"'a\.bin' in 'texts' is none of"),
        ("a.jsonl", b'{"text": "a"}\n{"text"\n', r"'a\.jsonl:2' is not JSON"),
        ("a.jsonl", b"[]\n", r"'a\.jsonl:1' is not a JSON object"),
        ("a.jsonl", b'{"body": "a"}\n', r"'a\.jsonl:1' has no column 'text'; it has 'body'"),
        ("a.jsonl", b'{"text": 1}\n', r"'a\.jsonl:1': column 'text' holds 1: no text"),
        ("a.jsonl", b'{"text": "\\ud800"}\n', r"'a\.jsonl:1'.*half a surrogate pair"),
        ("a.jsonl.gz", gzip.compress(b'{"text": "a"}\n', mtime=0)[:-9], r"'a\.jsonl\.gz' is damaged"),
        ("a.jsonl.zst", b"no zstd", r"'a\.jsonl\.zst' is damaged"),
        ("a.parquet", b"no parquet", r"'a\.parquet' is damaged"),
    ],
)
def test_a_bad_file_is_named_with_what_is_wrong(
    name: str, data: bytes, message: str, params: Params, run_stages: Run
) -> None:
    Path("texts").mkdir()
    Path("texts", name).write_bytes(data)
    params["snapshot"]["sources"] = {"texts": TEXTS}
    with pytest.raises(UserError, match=message):
        run_stages("snapshot")
    assert not OUT.exists()


@pytest.mark.parametrize(
    ("source", "change", "message"),
    [
        ("stdlib", {"pin": {"python": "3.1"}}, r"pin\.python is '3\.1' but Python 3\.11"),
        ("stdlib", {"pin": {"distributions": ["no-such-thing"]}}, "'no-such-thing'.*is not installed"),
        ("stdlib", {"include": ["nothing"]}, r"snapshot\.sources\.stdlib is empty"),
        ("stdlib", {"license": "BSD"}, r"snapshot\.sources\.stdlib\.license = 'BSD' is not an SPDX expression"),
        ("stdlib", {"license": "metadata"}, "Python has no distribution metadata"),
        ("stdlib", {"sha256": "0" * 64}, rf"stdlib\.sha256 is '{'0' * 64}' but the source is now '\w{{64}}'"),
        ("stdlib", {"domian": "code"}, r"snapshot\.sources\.stdlib\.installed\.domian is not a parameter"),
        ("stdlib", {"kind": "hub"}, r"snapshot\.sources\.stdlib"),
        ("reference", {"pin": {"distributions": ["numpy"]}}, "pin `python`"),
        ("reference", {"pin": {}}, "either `python` or `distributions`"),
    ],
)
def test_a_bad_source_is_named_with_its_value(
    source: str, change: Params, message: str, params: Params, run_stages: Run
) -> None:
    params["snapshot"]["sources"][source] |= change
    with pytest.raises(UserError, match=message):
        run_stages("snapshot")
    assert not OUT.exists()


def test_a_document_longer_than_a_shard_is_an_error(params: Params, run_stages: Run) -> None:
    params["snapshot"]["shard_bytes"] = 1000
    with pytest.raises(UserError, match=r"has \d+ bytes, more than snapshot\.shard_bytes = 1000") as raised:
        run_stages("snapshot")
    assert re.search(r"'python==3\.11\.\d+/", str(raised.value))


def test_the_refused_of_all_sources_are_listed_in_the_order_of_their_names(params: Params, run_stages: Run) -> None:
    python = params["snapshot"]["sources"]["stdlib"]
    folders = {"b": ["/wsgiref/"], "a_b": ["/json/"], "a": ["/sqlite3/"]}
    params["snapshot"]["sources"] |= {
        name: {**python, "license": "MPL-2.0", "include": include} for name, include in folders.items()
    }
    run_stages("snapshot")
    rows = list(read_jsonl(OUT / "refused.jsonl"))
    assert [source for source, _ in groupby(row["source"] for row in rows)] == ["a", "a_b", "b"]
    assert len(rows) == read_json(OUT / "metrics.json")["refused_documents"]
    assert not (OUT / "refused").exists()


def test_memory_is_flat_in_what_is_refused(tmp_path: Path) -> None:
    candidates = (Candidate("a page\n", f"wiki.xml:{number}", License("MPL-2.0")) for number in range(20_000))
    source = validate("texts", FilesSource, TEXTS, "test")
    tracemalloc.start()
    with jsonl_writer(tmp_path / "refused.jsonl") as refuse:
        admitted = list(admit("texts", source, candidates, frozenset({"MIT"}), 1 << 20, Record(refuse)))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert not admitted
    assert (tmp_path / "refused.jsonl").stat().st_size > 3_000_000
    assert peak < 2_000_000
