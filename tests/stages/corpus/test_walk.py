import os
from pathlib import Path

import pytest

from stages.corpus.files import selected
from stages.corpus.sources import FilesSource
from stages.corpus.walk import entries_below
from stages.errors import UserError
from stages.settings import validate


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "root"
    (root / "deep").mkdir(parents=True)
    (root / "a.txt").write_text("a\n")
    (root / "deep/b.txt").write_text("b\n")
    return root


def select(root: Path, *include: str) -> list[str]:
    settings = {"kind": "files", "domain": "prose", "root": str(root), "license": "MIT", "include": include or ["**"]}
    return selected(validate("source", FilesSource, settings, "test"))


def test_links_to_files_and_folders_are_followed(root: Path, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    (tmp_path / "other/c.txt").write_text("c\n")
    (root / "deep/linked").symlink_to(tmp_path / "other")
    (root / "d.txt").symlink_to("a.txt")
    assert list(entries_below(root)) == ["a.txt", "d.txt", "deep/b.txt", "deep/linked/c.txt"]


def test_a_folder_that_two_links_lead_to_is_read_by_both(root: Path, tmp_path: Path) -> None:
    (root / "x").symlink_to("deep")
    (root / "y").symlink_to("deep")
    assert list(entries_below(root)) == ["a.txt", "deep/b.txt", "x/b.txt", "y/b.txt"]


@pytest.mark.parametrize(
    ("link", "target"), [("deep/up", ".."), ("deep/same", "."), ("loop", "loop"), ("lost", "nowhere")]
)
def test_a_link_in_a_circle_or_to_nothing_is_an_error_only_where_it_is_selected(
    link: str, target: str, root: Path
) -> None:
    (root / link).symlink_to(target)
    with pytest.raises(UserError, match=rf"'{link}' in '.*' is a link to nothing, or to a folder that it lies in"):
        select(root)
    assert select(root, "*.txt") == ["a.txt", "deep/b.txt"]


def test_what_is_neither_file_nor_folder_is_left_out(root: Path) -> None:
    os.mkfifo(root / "pipe.txt")
    assert select(root) == ["a.txt", "deep/b.txt"]
