import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stages.corpus import opt_outs
from stages.corpus.documents import Document
from stages.corpus.sources import UrlSource
from stages.corpus.texts import of_file
from stages.curation.opt_out import OptOut
from stages.curation.step import KEEP
from stages.errors import UserError
from stages.files import read_json
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


SITES = [*[("a.example", number) for number in range(3)], *[("b.example", number) for number in range(2)], ("c.org", 1)]
ROBOTS = {
    "RFC 9309, section 5.1": """\
User-Agent: *
Disallow: *.gif$
Disallow: /example/
Allow: /publications/

User-Agent: foobot
Disallow:/
Allow:/example/page.html
Allow:/example/allowed.gif

User-Agent: barbot
User-Agent: bazbot
Disallow: /example/page.html

User-Agent: quxbot
""",
    "RFC 9309, section 5.2": """\
User-Agent: foobot
Allow: /example/page/
Disallow: /example/page/disallowed.gif
""",
    "www.python.org": """\
# Directions for robots.  See this URL:
# http://www.robotstxt.org/robotstxt.html
# for a description of the file format.

User-agent: HTTrack
User-agent: puf
User-agent: MSIECrawler
Disallow: /

# The Krugle web crawler (though based on Nutch) is OK.
User-agent: Krugle
Allow: /
Disallow: /~guido/orlijn/
Disallow: /webstats/

# No one should be crawling us with Nutch.
User-agent: Nutch
Disallow: /

# Hide old versions of the documentation and various large sets of files.
User-agent: *
Disallow: /~guido/orlijn/
Disallow: /webstats/
""",
    "www.gutenberg.org": "User-agent: 008\nDisallow: /\t\n\nUser-agent: ccbot\nDisallow: /\t\n",
    "stackoverflow.com": "User-Agent: *\r\nDisallow: /posts/\r\nDisallow: /users/*?tab=accounts\r\n"
    "Disallow: /*/ivc/*\r\nAllow: /\r\n",
    "www.nytimes.com": "User-agent: *\nAllow: /ads/public/\nDisallow: /ads/\nDisallow: /*?*query=\nDisallow: /*.pdf$\n",
    "a byte order mark": "\ufeffUser-agent: *\nDisallow: /\n",
    "two groups": "User-agent: a\nDisallow: /b\n\nUser-agent: *\n\nUser-agent: a\nDisallow: /c\n",
    "not escaped": "User-agent: *\nDisallow: /b\u00fccher/\n",
    "a page": "<!DOCTYPE html>\n<html><body>Not found</body></html>\n",
}


def fetchable(text: str, agent: str, path: str, folder: Path) -> bool:
    row = json.dumps({"url": "https://host.example/robots.txt", "text": text})
    robots = settings(folder, "robots", row, user_agents=[agent])
    return reasons({"r": robots}, document(f"https://host.example{path}")) == [None]


@pytest.mark.parametrize(
    ("robots", "agent", "open_paths", "closed_paths"),
    [
        (
            "RFC 9309, section 5.1",
            "foobot",
            ["/example/page.html", "/example/allowed.gif"],
            ["/", "/publications/", "/a.gif"],
        ),
        ("RFC 9309, section 5.1", "BazBot", ["/", "/example/", "/a.gif"], ["/example/page.html"]),
        ("RFC 9309, section 5.1", "quxbot", ["/", "/example/page.html", "/a.gif"], []),
        ("RFC 9309, section 5.1", "another", ["/", "/publications/", "/a.gif?x"], ["/example/x", "/a.gif"]),
        ("RFC 9309, section 5.2", "foobot", ["/example/page/allowed.gif", "/other"], ["/example/page/disallowed.gif"]),
        ("www.python.org", "puf", [], ["/", "/doc/"]),
        (
            "www.python.org",
            "GPTBot",
            ["/", "/doc/", "/~guido/"],
            ["/webstats/a", "/%7Eguido/orlijn/", "/~guido/orlijn/x"],
        ),
        ("www.python.org", "Krugle", ["/doc/"], ["/webstats/"]),
        ("www.gutenberg.org", "CCBot", [], ["/", "/ebooks/84"]),
        ("www.gutenberg.org", "GPTBot", ["/", "/ebooks/84"], []),
        ("stackoverflow.com", "CCBot", ["/questions/1", "/posts"], ["/posts/1", "/users/1/a?tab=accounts", "/a/ivc/b"]),
        ("www.nytimes.com", "CCBot", ["/ads/public/1", "/a.pdf?x"], ["/ads/1", "/a.pdf", "/search?x=1&query=b"]),
        ("a byte order mark", "CCBot", [], ["/"]),
        ("two groups", "a", ["/d"], ["/b", "/c"]),
        ("not escaped", "CCBot", ["/b"], ["/b%C3%BCcher/1", "/b\u00fccher/1"]),
        ("a page", "CCBot", ["/"], []),
    ],
)
def test_robots_are_read_as_the_standard_says(
    robots: str, agent: str, open_paths: list[str], closed_paths: list[str], tmp_path: Path
) -> None:
    verdicts = {path: fetchable(ROBOTS[robots], agent, path, tmp_path) for path in (*open_paths, *closed_paths)}
    assert verdicts == {**dict.fromkeys(open_paths, True), **dict.fromkeys(closed_paths, False)}


def test_every_robots_file_of_a_host_is_obeyed(tmp_path: Path) -> None:
    rows = [
        json.dumps({"url": f"{scheme}://example.org/robots.txt", "text": f"User-agent: *\nDisallow: /{scheme}\n"})
        for scheme in ("http", "https")
    ]
    robots = settings(tmp_path, "robots", *rows, user_agents=["GPTBot"])
    pages = [document(url) for url in ("https://example.org/http/a", "example.org/https/a", "http://example.org/b")]
    assert reasons({"r": robots}, *pages) == ["opt_out:r", "opt_out:r", None]


@pytest.mark.parametrize("line", ["{", "[]", '{"url": "https://example.org/robots.txt"}'])
def test_a_row_that_is_no_robots_file_is_named(line: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"robots\.txt:2' is no"):
        reasons({"x": settings(tmp_path, "robots", '{"url": "", "text": ""}', line, user_agents=["GPTBot"])})


@pytest.mark.parametrize(
    ("entry", "url"),
    [
        ("https://example.org/~ada/", "http://example.org/%7Eada/"),
        ("https://example.org/b\u00fccher", "https://example.org/b%C3%BCcher"),
        ("https://b\u00fccher.example/", "https://xn--bcher-kva.example"),
        ("https://example.org:443/a", "example.org/a"),
        ("https://example.org./a", "https://EXAMPLE.org/a#top"),
        ("https://example.org/a/*", "https://example.org/a/b?c=/d"),
        ("https://example.org/a", " \n https://example.org/a "),
    ],
)
def test_spellings_of_one_address_are_the_same(entry: str, url: str, tmp_path: Path) -> None:
    assert reasons({"u": settings(tmp_path, "urls", entry)}, document(url)) == ["opt_out:u"]


@given(st.text())
def test_an_address_that_is_none_is_on_no_list(url: str) -> None:
    listed = {"example.org", "example.org/*", "example.org/"}
    assert listed.isdisjoint([*opt_outs.addresses_above(f"http://[{url}"), *opt_outs.domains_above(f"http://[{url}")])


@pytest.mark.parametrize(
    ("pinned", "url"), [("https://a.example/x", "https://a.example/x"), ("file:///home/ada/x", "")]
)
def test_a_document_has_the_address_of_its_file_but_no_path_of_a_machine(pinned: str, url: str, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("text")
    files = {"a.txt": {"url": pinned, "sha256": "0" * 64}}
    source = validate("s", UrlSource, {"kind": "url", "domain": "prose", "license": "MIT", "files": files}, "test")
    assert [each.url for each in of_file(source, tmp_path / "a.txt", "a.txt")] == [url]


@pytest.mark.parametrize("names", ["Ada Lovelace; Charles Babbage", "Charles Babbage and ADA LOVELACE", "Ada Lovelace"])
def test_one_of_several_authors_is_enough(names: str, tmp_path: Path) -> None:
    authors = settings(tmp_path, "authors", "Ada Lovelace")
    assert reasons({"people": authors}, document(author=names), document(author="Ada Lovelaces")) == [
        "opt_out:people",
        None,
    ]


def test_another_list_is_another_run_of_curate_alone(
    params: dict[str, Any], run_stages: Callable[..., None], tmp_path: Path
) -> None:
    Path("texts").mkdir()
    rows = [{"text": f"Page {number} of {site}.\n", "url": f"https://{site}/{number}"} for site, number in SITES]
    Path("texts/a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    source = {"kind": "files", "domain": "prose", "license": "MIT", "root": "texts", "url_column": "url"}
    params["snapshot"]["sources"] = {"web": source}
    with pytest.raises(UserError, match="has no sha256") as raised:
        run_stages("snapshot")
    source["sha256"] = str(raised.value)[-64:]
    run_stages("snapshot")
    found = []
    for entries in (["a.example"], ["a.example", "b.example"]):
        lists = {"sites": settings(tmp_path, "domains", *entries)}
        params["curate"]["chains"] = {"prose": {"steps": [{"step": "opt_out", "lists": lists}]}}
        run_stages("curate")
        found.append(read_json(Path("out/curate/report.json"))["opt_outs"]["sites"]["documents"])
    assert found == [3, 5]


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
        ("urls", "https://[a.example/b", r"urls\.txt:1: 'https://\[a\.example/b' is no address"),
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
