import hashlib
import json
from pathlib import Path

import pytest

from stages.corpus.documents import Document
from stages.curation.opt_out import OptOut
from stages.curation.step import KEEP
from stages.errors import UserError
from stages.settings import validate


def document(url: str = "", author: str = "", identity: str = "0" * 32) -> Document:
    return Document(identity, "text", "web", "crawl", "a.warc:1", "CC-BY-4.0", "", url, author)


def settings(folder: Path, kind: str, *lines: str, **more: object) -> dict[str, object]:
    path = folder / f"{kind}.txt"
    path.write_text("".join(f"{line}\n" for line in lines))
    return {"path": str(path), "sha256": hashlib.sha256(path.read_bytes()).hexdigest(), "kind": kind, **more}


def reasons(lists: dict[str, object], *documents: Document) -> list[str | None]:
    step = validate("step", OptOut, {"step": "opt_out", "lists": lists}, "test").build()
    return [verdict.reason for verdict in step(documents)]


def test_ids_and_authors_are_matched_whole(tmp_path: Path) -> None:
    ids, authors = settings(tmp_path, "ids", "# ours", "", "A" * 32), settings(tmp_path, "authors", "Ada  Lovelace")
    documents = (document(identity="a" * 32), document(), document(author="ada lovelace"), document(author="Ada"))
    assert reasons({"ids": ids, "people": authors}, *documents) == ["opt_out:ids", None, "opt_out:people", None]


def test_a_domain_takes_what_is_below_it(tmp_path: Path) -> None:
    domains = settings(tmp_path, "domains", "Example.org", "bücher.example")
    urls = [
        "https://www.example.org:8080/x",
        "http://example.org",
        "https://notexample.org/",
        "http://BÜCHER.example/a",
        "",
    ]
    expected = ["opt_out:d", "opt_out:d", None, "opt_out:d", None]
    assert reasons({"d": domains}, *map(document, urls)) == expected


def test_an_address_is_matched_whole_but_for_scheme_and_fragment(tmp_path: Path) -> None:
    listed = settings(tmp_path, "urls", "https://example.org/a?b=1", "https://example.org/wiki/*")
    urls = [
        "http://EXAMPLE.org/a?b=1#c",
        "https://example.org/a",
        "https://example.org/wiki/x/y",
        "https://example.org/wikis",
    ]
    assert reasons({"u": listed}, *map(document, urls)) == ["opt_out:u", None, "opt_out:u", None]


def test_robots_are_obeyed_for_each_agent(tmp_path: Path) -> None:
    rules = "User-agent: GPTBot\nDisallow: /\n\nUser-agent: *\nDisallow: /private/*.html$\n"
    row = json.dumps({"url": "https://example.org/robots.txt", "text": rules})
    pages = [document(f"https://{page}") for page in ("example.org/a", "example.org/private/b.html", "other.org/a")]
    assert reasons({"r": settings(tmp_path, "robots", row, user_agents=["GPTBot"])}, *pages) == ["opt_out:r"] * 2 + [
        None
    ]
    others = settings(tmp_path, "robots", row, user_agents=["CCBot"])
    assert reasons({"r": others}, *pages) == [None, "opt_out:r", None]


def test_the_tags_name_every_list(tmp_path: Path) -> None:
    lists = {"one": settings(tmp_path, "domains", "a.example"), "two": settings(tmp_path, "urls", "http://a.example/")}
    step = validate("step", OptOut, {"step": "opt_out", "lists": lists}, "test").build()
    dropped, kept = step([document("https://a.example"), document()])
    assert (dropped.reason, dropped.tags) == ("opt_out:one", ("opt_out:one", "opt_out:two"))
    assert kept == KEEP


@pytest.mark.parametrize(
    ("kind", "line", "message"),
    [
        ("ids", "abc", r"ids\.txt:1: 'abc' is none of the ids"),
        ("domains", "https://a.example", r"domains\.txt:1: 'https://a\.example' is none of the domains"),
        ("urls", "a.example/b", r"urls\.txt:1: 'a\.example/b' is no address with a scheme"),
    ],
)
def test_an_entry_of_another_kind_is_named(kind: str, line: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message):
        reasons({"x": settings(tmp_path, kind, line)})


def test_a_list_that_changed_is_refused(tmp_path: Path) -> None:
    pinned = settings(tmp_path, "domains", "a.example")
    (tmp_path / "domains.txt").write_text("b.example\n")
    with pytest.raises(UserError, match=r"opt_out\.lists\.x\.sha256 is '\w{64}' but '.*domains\.txt' has '\w{64}'"):
        reasons({"x": pinned})


def test_robots_need_agents(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="kind = robots needs `user_agents`"):
        reasons({"x": settings(tmp_path, "robots")})
