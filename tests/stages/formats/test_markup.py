import gzip
import re
from collections import Counter

import pytest

from stages.errors import UserError
from stages.formats import mediawiki
from tests.shared import shared
from tests.stages.formats.reading import rows, text

BOMB = (
    b'<?xml version="1.0"?><!DOCTYPE d [<!ENTITY a "ha"><!ENTITY b "&a;&a;&a;&a;"><!ENTITY c "&b;&b;&b;&b;">]>'
    b"<mediawiki><page><title>x</title><revision><text>&c;</text></revision></page></mediawiki>"
)
OUTSIDE = (
    b'<!DOCTYPE d [<!ENTITY f SYSTEM "file:///etc/passwd">]><document><content><para>&f;</para></content></document>'
)


def grams(words: str) -> Counter[tuple[str, ...]]:
    found = re.findall(r"[^\W_]+", words.lower())
    return Counter(tuple(found[start : start + 5]) for start in range(len(found) - 4))


@pytest.mark.parametrize(("data", "name"), [(BOMB, "a.xml"), (BOMB, "a.cnxml"), (OUTSIDE, "a.cnxml")])
def test_entities_are_refused_not_expanded(data: bytes, name: str) -> None:
    with pytest.raises(UserError, match=rf"'{name}' declares XML entities"):
        rows(data, name)


@pytest.mark.parametrize("name", ["a.xml", "a.cnxml"])
def test_xml_that_was_cut_short_is_damaged(name: str) -> None:
    with pytest.raises(UserError, match=rf"'{name}' is damaged"):
        rows(b"<mediawiki><page><title>x</title>", name)


def test_html_is_its_text_in_blocks() -> None:
    page = b"<html><title>T</title><body><nav>Home</nav><p>One <b>bo</b>ld.</p><p>Two &amp; three.</p></body>"
    (row,) = rows(page, "a.html", html="whole")
    assert (row.text, row.columns) == ("Home\n\nOne bold.\n\nTwo & three.", {"title": "T"})


def test_a_page_without_text_says_so() -> None:
    assert rows(b"<html><body><img src='a.png'></body></html>", "a.html")[0].problem == "no_text"


def test_a_book_in_xhtml_keeps_the_words_of_its_other_edition() -> None:
    books = shared("corpus") / "books"
    (plain,) = books.glob("gutenberg/*972/*.txt")
    chapter = (books / "standardebooks/the-devils-dictionary/b.xhtml").read_bytes()
    found, wanted = grams(text(chapter, "b.xhtml")), grams(plain.read_text())
    assert (found & wanted).total() > 0.85 * found.total()


WIKI = """<mediawiki xmlns="http://www.mediawiki.org/xml/export-0.10/"><siteinfo><namespaces>
<namespace key="0"/><namespace key="6">Datei</namespace><namespace key="14">Kategorie</namespace></namespaces>
</siteinfo><page><title>A</title><ns>0</ns><id>7</id><revision><id>70</id><timestamp>2020-01-01T00:00:00Z</timestamp>
<text>'''Bold''' and a [[link|word]].{{Infobox|x=1}}&lt;ref&gt;source&lt;/ref&gt; [[Datei:A.png|thumb|caption]]
[[Kategorie:B]]</text></revision></page>
<page><title>R</title><ns>0</ns><id>8</id><redirect title="A"/><revision><text>#REDIRECT [[A]]</text></revision></page>
<page><title>Talk:A</title><ns>1</ns><id>9</id><revision><text>Talk</text></revision></page></mediawiki>"""


def test_a_wiki_page_is_a_row_and_what_is_no_page_says_why() -> None:
    found = rows(WIKI.encode(), "dump.xml")
    assert [(row.place, row.problem) for row in found] == [(":7", None), (":8", "redirect"), (":9", "namespace_1")]
    assert found[0].text == "Bold and a word."
    assert found[0].columns == {"title": "A", "namespace": "0", "revision": "70", "timestamp": "2020-01-01T00:00:00Z"}
    assert [row.text for row in rows(WIKI.encode(), "dump.xml", namespaces=(1,)) if not row.problem] == ["Talk"]


@pytest.mark.parametrize(
    ("wikitext", "plain"),
    [
        ("the Greek ''{{lang|grc|[[arkhe|ἀρχή]]}}'', power", "the Greek ἀρχή, power"),
        ("{{convert|1300|mi|km}} or {{Convert|5|to|7|ft|m|0}} away", "1300 mi or 5 to 7 ft away"),
        (
            "So:{{quote|text=We ''must''<ref>a</ref> go.|author=A. B.}}He went.",
            "So:\n\nWe must go.\n\nHe went.",
        ),
        ("All.{{citation needed|date=May 2015}}{{Main|History}}{{quote}}", "All."),
        ("''A [[File:A.png|thumb|x]]slanted'' word", "A slanted word"),
    ],
)
def test_a_template_leaves_the_words_that_it_stands_for(wikitext: str, plain: str) -> None:
    assert mediawiki.plain(wikitext, frozenset({"file"})) == plain


def test_other_xml_is_no_wiki() -> None:
    with pytest.raises(UserError, match=r"'a\.xml' is XML but no MediaWiki export"):
        rows(b"<feed><entry>x</entry></feed>", "a.xml")


def test_a_real_export_in_utf_16_is_read() -> None:
    path = shared("corpus") / "multilingual/bgwiki/bgwiki-pages-articles-shortened.xml"
    found = rows(path.read_bytes(), "bgwiki.xml")
    assert Counter(row.problem for row in found) == {"namespace_4": 2, None: 1}
    (page,) = [row for row in found if not row.problem]
    assert (page.columns["title"], page.encoding) == ("Григориански календар", "utf-16")
    assert page.text.startswith("Григорианският календар (понякога наричан и Грегориански календар, „нов стил“) ")


def test_latex_is_what_it_prints() -> None:
    source = rb"""\documentclass{article}\newcommand{\x}{y}
\begin{document}\section{Sets}\label{s}
Let \emph{every} na\"{\i}ve set~$A \subseteq B$ be as in \cite{a}; see \href{http://a.b/%20}{here}. % a remark
\input{/etc/passwd}
\end{document} after"""
    assert " ".join(text(source, "a.tex").split()) == "§ SETS Let every naïve set $A \\subseteq B$ be as in ; see here."
    assert "A ⊆ B" in text(source, "a.tex", latex_math="text")


@pytest.mark.parametrize(
    ("source", "printed"),
    [
        (r"Call \verb|print(x)| now.", "Call print(x) now."),
        (r"Call \verb*!print(x)! or \verb|*|.", "Call print(x) or *."),
        (r"A \begin{verbatim}print(1)\end{verbatim} B", "A print(1) B"),
        (r"a \texttt{abc} d", "a abc d"),
        (r"a \texttt{x\_y \emph{z}} d", "a x_y z d"),
        (r"\begin{lstlisting}x = {1}  % c\end{lstlisting}", "x = {1}  % c"),
        ("\\begin{lstlisting}[caption={[a]b}, language=C]\nx[0] = 1;\n\\end{lstlisting}", "x[0] = 1;"),
        ("\\begin{minted}[linenos]{python}\nx = {}\n\\end{minted}", "x = {}"),
        (r"\begin{Verbatim}[fontsize=\small]a \b % c\end{Verbatim}", r"a \b % c"),
        (r"\begin{verbatim}[a] $b$\end{verbatim}", "[a] $b$"),
        (r"A \begin{lstlisting}x = {1}", "A x = {1}"),
        (r"see \eqref{x}\autoref{y}\cref{z}\includegraphics[width=1cm]{a}.", "see ."),
        (r"\textsf{a}\textup{b}\textmd{c}\mbox{d}", "abcd"),
        ("A \\verb|b c\n\nd", "A |b c\n\nd"),
        (r"A \verb", "A"),
    ],
)
def test_latex_keeps_code_and_prints_no_placeholder(source: str, printed: str) -> None:
    assert text(source.encode(), "a.tex") == printed
    whole = f"\\begin{{document}}{source}\\end{{document}} after"
    assert text(whole.encode(), "a.tex").startswith(printed)


@pytest.mark.parametrize(
    ("source", "printed"),
    [
        ("% put text between \\begin{document} and \\end{document}\n\\title{x}\\begin{document}Text.", "Text."),
        ("\\begin{document}Intro. % \\end{document}\nChapter two is long.", "Intro. Chapter two is long."),
        (r"\begin{document}Write \verb|\end{document}| at the end. More.", r"Write \end{document} at the end. More."),
        (r"\begin{document}Write \verb|\end{document}|.\end{document} after", r"Write \end{document}."),
        (r"\begin{document}\begin{lstlisting}%\end{document}\end{lstlisting}A\end{document}B", r"%\end{document}A"),
        (r"\begin{document}5\% of\end{document} after \end{document}", "5% of"),
        (r"\begin{document}at \url{http://a.b/%20} here\end{document} after", "at <http://a.b/%20> here"),
        (r"\newcommand{\x}{y}\begin {document}Text.\end {document} after", "Text."),
        ("% \\begin{document}\nText.", "Text."),
    ],
)
def test_latex_is_cut_where_the_document_begins_and_ends(source: str, printed: str) -> None:
    assert " ".join(text(source.encode(), "a.tex").split()) == printed


def test_a_chapter_in_latex_keeps_its_prose() -> None:
    path = shared("corpus") / "scientific/openlogic/first-order-logic/beyond/second-order-logic.tex"
    found = text(path.read_bytes(), "a.tex")
    assert not re.search(r"\\(begin|section|emph)\b", found)
    assert len(grams(found)) > 0.8 * len(grams(path.read_text()))


CNXML = """<document xmlns="http://cnx.rice.edu/cnxml" xmlns:m="http://www.w3.org/1998/Math/MathML"><title>Force</title>
<metadata xmlns:md="http://cnx.rice.edu/mdml"><md:content-id>m1</md:content-id></metadata><content>
<section><title>Law</title><para>Newton's <term>second</term>
law: <m:math><m:mi>a</m:mi><m:mo>=</m:mo><m:mfrac><m:mi>F</m:mi><m:mi>m</m:mi></m:mfrac></m:math>.</para>
<list><item>one</item><item>two</item></list>
<figure><media alt="An apple"><image src="a.png"/></media><caption>An apple falls.</caption></figure></section>
</content></document>"""


def test_cnxml_is_titles_paragraphs_items_and_captions() -> None:
    (row,) = rows(CNXML.encode(), "index.cnxml")
    assert row.text == "Force\n\nLaw\n\nNewton's second law: a=F/m.\n\n- one\n\n- two\n\nAn apple falls."
    assert row.columns == {"title": "Force", "id": "m1"}


def test_every_module_of_a_book_has_all_words_of_its_paragraphs() -> None:
    for path in sorted((shared("corpus") / "encyclopedic/openstax-us-history").rglob("*.cnxml"))[::40]:
        content = path.read_text().partition("<content>")[2]
        (row,) = rows(path.read_bytes(), path.name)
        plain = [each for each in re.findall(r"<para [^>]*>([^<]+)</para>", content) if "&" not in each]
        assert [each for each in plain if " ".join(each.split()) not in row.text] == []


def record(kind: str, block: bytes, media: str, url: str = "http://example.org/a") -> bytes:
    head = (
        f"WARC/1.0\r\nWARC-Type: {kind}\r\nWARC-Target-URI: {url}\r\nWARC-Date: 2024-05-01T00:00:00Z\r\n"
        f"WARC-Record-ID: <urn:uuid:1>\r\nContent-Type: {media}\r\nContent-Length: {len(block)}\r\n\r\n"
    )
    return head.encode() + block + b"\r\n\r\n"


def response(body: bytes, media: str = "text/html; charset=koi8-r", status: str = "200 OK", more: str = "") -> bytes:
    head = f"HTTP/1.1 {status}\r\nContent-Type: {media}\r\n{more}\r\n".encode()
    return record("response", head + body, "application/http; msgtype=response")


PAGE = "<html><head><title>Заглавие</title></head><body><p>Привет, мир.</p></body></html>".encode("koi8-r")
WARC = (
    record("warcinfo", b"software: x", "application/warc-fields")
    + response(PAGE)
    + response(gzip.compress(PAGE), more="Content-Encoding: gzip\r\n")
    + response(b"gone", status="404 Not Found")
    + response(b"\x89PNG", media="image/png")
    + record("conversion", b"Reiner Text.", "text/plain")
)


@pytest.mark.parametrize("name", ["a.warc", "a.warc.gz"])
def test_a_warc_is_its_pages_with_their_addresses(name: str) -> None:
    found = rows(gzip.compress(WARC) if name.endswith("gz") else WARC, name, html="whole")
    assert [(row.text, row.problem) for row in found] == [
        ("Привет, мир.", None),
        ("Привет, мир.", None),
        ("", "status_404"),
        ("", "media_type"),
        ("Reiner Text.", None),
    ]
    assert (found[0].place, found[0].encoding, found[0].columns["url"]) == (":2", "koi8-r", "http://example.org/a")


@pytest.mark.parametrize("kept", [-20, len(WARC) - 150])
def test_a_warc_that_was_cut_short_is_damaged(kept: int) -> None:
    with pytest.raises(UserError, match=r"'a\.warc:6' is damaged"):
        rows(WARC[:kept], "a.warc")


def test_a_page_that_swells_is_named() -> None:
    bomb = response(gzip.compress(bytes(1 << 24)), more="Content-Encoding: gzip\r\n")
    with pytest.raises(UserError, match=r"'a\.warc:1' has more than max_text_bytes = 100000 bytes"):
        rows(bomb, "a.warc", max_text_bytes=100_000)
