from pathlib import Path

import pytest

from evals.documents import Document
from evals.split import select
from stages.errors import UserError
from tests.evals import world


@pytest.fixture(scope="module")
def documents() -> list[Document]:
    return world.documents("code", world.texts("asyncio")) + world.documents("prose", world.texts("email"))


def test_files_and_their_order_do_not_matter(tmp_path: Path, documents: list[Document]) -> None:
    world.write_split(tmp_path / "one", documents)
    world.write_split(tmp_path / "two", documents[::-2], "a")
    world.write_split(tmp_path / "two", documents[-2::-2], "b")
    assert select(tmp_path / "one", 5, 0) == select(tmp_path / "two", 5, 0)


def test_at_most_the_limit_is_taken_of_each_domain(tmp_path: Path, documents: list[Document]) -> None:
    world.write_split(tmp_path, documents)
    assert {domain: len(chosen) for domain, chosen in select(tmp_path, 5, 0).items()} == {"code": 5, "prose": 5}
    every = [document for chosen in select(tmp_path, 1000, 0).values() for document in chosen]
    assert sorted(every, key=str) == sorted(documents, key=str)


def test_a_smaller_evaluation_is_part_of_a_larger_one(tmp_path: Path, documents: list[Document]) -> None:
    world.write_split(tmp_path, documents)
    assert select(tmp_path, 9, 0)["code"][:4] == select(tmp_path, 4, 0)["code"]
    assert select(tmp_path, 9, 1)["code"][:4] != select(tmp_path, 4, 0)["code"]


def test_an_empty_split_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"holds no document. Raise curate.split.test"):
        select(tmp_path, 5, 0)


def test_the_name_of_the_pooled_results_is_no_domain(tmp_path: Path, documents: list[Document]) -> None:
    world.write_split(tmp_path, world.documents("all", ["text"]))
    with pytest.raises(UserError, match="'all' is reserved"):
        select(tmp_path, 5, 0)
