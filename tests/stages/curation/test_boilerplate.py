import ast
import sysconfig
from pathlib import Path
from typing import Any

import hypothesis
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stages.curation.boilerplate import Boilerplate
from stages.curation.step import KEEP, Verdict
from tests.shared import shared
from tests.stages.curation.documents import document

BOOK = "PRIDE AND PREJUDICE\n\nIt is a truth universally acknowledged, that a single man\n\nThe End"
START = (
    "\ufeffThe Project Gutenberg EBook of Pride and Prejudice\n\n*** START OF THIS PROJECT GUTENBERG EBOOK {} ***\n\n\n"
)
END = "\n\n\n\nEnd of the Project Gutenberg EBook of it\n\n*** END OF THIS PROJECT GUTENBERG EBOOK ***\n\nLICENSE\n"
APACHE = """# Copyright 2019 The gRPC Authors
#
# Licensed under the Apache License, Version 2.0 (the "License");
# you may not use this file except in compliance with the License.
# You may obtain a copy of the License at
#
#     http://www.apache.org/licenses/LICENSE-2.0
#
# Unless required by applicable law or agreed to in writing, software
# distributed under the License is distributed on an "AS IS" BASIS.
"""
CODE = '"""What it does."""\n\nimport ast  # Copyright is none of its concern\n'


def judge(text: str, **changes: Any) -> Verdict:
    settings = Boilerplate(step="boilerplate", **{"gutenberg": True, "license_headers": True, **changes})
    (verdict,) = settings.build()([document(text)])
    return verdict


@pytest.mark.parametrize("title", ["PRIDE AND PREJUDICE", "A TITLE THAT IS\nTWO LINES LONG"])
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_a_book_is_what_is_between_the_marks(title: str, newline: str) -> None:
    start, book, end = (part.replace("\n", newline) for part in (START.format(title), BOOK, END))
    verdict = judge(start + book + end)
    assert verdict.text == book
    assert verdict.numbers == {"gutenberg_header": len(start), "gutenberg_footer": len(end)}


def test_a_book_about_project_gutenberg_is_left_alone() -> None:
    assert judge("He told us of the end of Project Gutenberg and of its START.\n" + BOOK) == KEEP
    assert judge(START + BOOK + END, gutenberg=False) == KEEP


def test_nothing_but_boilerplate_stays_as_it_is() -> None:
    assert judge(START + END) == KEEP
    assert judge(APACHE) == KEEP


@pytest.mark.parametrize("first", ["", "#!/usr/bin/env python\n", "#!/bin/sh\n# -*- coding: utf-8 -*-\n\n"])
def test_a_licence_header_goes_and_what_must_be_first_stays(first: str) -> None:
    verdict = judge(first + APACHE + CODE)
    assert verdict.text == first + CODE
    assert verdict.numbers == {"license_header": len(APACHE)}


def test_what_a_comment_says_besides_stays() -> None:
    assert judge(f"# Numbers of the\n# primes\n#\n{APACHE}#\n# Usage: primes 7\n{CODE}").text == (
        f"# Numbers of the\n# primes\n#\n# Usage: primes 7\n{CODE}"
    )
    block = "/*\n * Summary: lists\n *\n * Copy: See Copyright for the status.\n *\n * Author: G. P.\n */\n\nint x;\n"
    assert judge(block).text == "/*\n * Summary: lists\n *\n * Author: G. P.\n */\n\nint x;\n"


@pytest.mark.parametrize(
    "comment",
    [
        "// SPDX-License-Identifier: MIT\n",
        "/* Copyright (c) 1991 Regents of the University.\n * All rights reserved. */\n",
        "-- Copyright 2020\n-- Licensed under the BSD license\n",
        "<!-- Licensed to the Apache Software Foundation (ASF) -->\n",
        ";;; Copyright (C) 1985 Free Software Foundation, Inc.\n;;\n;; This is free software;\n",
    ],
)
def test_comments_are_those_of_many_languages(comment: str) -> None:
    assert judge(f"{comment}\nx\n").text == "x\n"


@pytest.mark.parametrize(
    "text",
    [
        "x = 1\n# Copyright 2020\n",
        "#include <license.h>\n/* Copyright */\n",
        "/* Copyright that never ends\nx\n",
        "/* Copyright */ int x;\n",
        "# A comment\n#\n# on patents and warranties\nx\n",
    ],
)
def test_only_comments_before_the_code_that_say_copyright_are_headers(text: str) -> None:
    assert judge(text) == KEEP


@hypothesis.settings(deadline=None)
@given(st.lists(st.sampled_from([*APACHE.splitlines(True), "#\n", "\n", "# says more\n", "/*\n", " */\n", "x\n"])))
def test_nothing_is_added_or_moved(lines: list[str]) -> None:
    text = judge("".join(lines)).text
    if text is not None:
        rest = iter(lines)
        assert all(line in rest for line in text.splitlines(True))


def test_python_means_the_same_without_its_header() -> None:
    cut = 0
    for path in sorted(Path(sysconfig.get_path("stdlib"), "lib2to3").rglob("*.py")):
        code = path.read_text()
        text = judge(code).text
        if text is not None:
            assert ast.dump(ast.parse(text)) == ast.dump(ast.parse(code))
            cut += 1
    assert cut > 10


def test_every_gutenberg_book_loses_its_header_and_footer() -> None:
    books = sorted((shared("corpus") / "books" / "gutenberg").rglob("*.txt"))
    assert len(books) == 7
    for path in books:
        text = path.read_bytes().decode("latin-1" if path.name == "1400-8.txt" else "utf-8")
        book = judge(text, license_headers=False).text
        assert book is not None
        header, footer = text.split(book)
        assert header.rstrip().endswith("***" if "old" not in path.parts else "*END*")
        assert footer.lstrip().startswith("End of")
        assert "Gutenberg" not in book or path.name in ("1400-8.txt", "2701.txt")  # the transcribers' own notes
