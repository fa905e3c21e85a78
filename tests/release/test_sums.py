"""SHA256SUMS names every file and refuses what it cannot name."""

import contextlib
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from release import sums
from stages.errors import UserError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "release"
    (root / "data").mkdir(parents=True)
    (root / "README.md").write_text("card")
    (root / "data" / "ä b.json").write_text("{}")
    sums.write(root)
    return root


def test_coreutils_accepts_the_sums(folder: Path) -> None:
    subprocess.run(["sha256sum", "--check", "--strict", sums.SUMS], cwd=folder, check=True, capture_output=True)


def test_whole_release_has_no_differences(folder: Path) -> None:
    assert not list(sums.differences(folder))


def test_missing_extra_and_changed_files_are_named(folder: Path) -> None:
    (folder / "data" / "ä b.json").unlink()
    (folder / "README.md").write_text("Card")
    (folder / "extra").write_text("")
    missing, extra, changed = sorted(
        sums.differences(folder), key=lambda line: ("data" not in line, "extra" not in line)
    )
    assert missing == "data/ä b.json: missing"
    assert extra == "extra: not listed in SHA256SUMS"
    assert changed.startswith("README.md: sha256 is ")


def test_symbolic_link_is_a_difference_even_to_the_right_bytes(folder: Path, tmp_path: Path) -> None:
    (folder / "README.md").rename(tmp_path / "elsewhere")
    (folder / "README.md").symlink_to(tmp_path / "elsewhere")
    assert list(sums.differences(folder)) == ["README.md: a symbolic link"]


def test_link_to_a_directory_is_a_difference(folder: Path, tmp_path: Path) -> None:
    (folder / "data").rename(tmp_path / "elsewhere")
    (folder / "data").symlink_to(tmp_path / "elsewhere")
    assert list(sums.differences(folder)) == ["data: not listed in SHA256SUMS", "data/ä b.json: missing"]


def test_only_the_tolerated_file_may_be_there_besides(folder: Path) -> None:
    (folder / ".gitattributes").write_text("")
    (folder / "data" / ".gitattributes").write_text("")
    found = list(sums.differences(folder, sums.ADDED_BY_THE_HUB))
    assert found == ["data/.gitattributes: not listed in SHA256SUMS"]


@pytest.mark.parametrize("path", ["/etc/passwd", "../x", "a/../../x", "./x", "a//b", "a\\b", ".", "a/"])
def test_path_that_leads_outside_is_refused(path: str) -> None:
    with pytest.raises(UserError, match="line 1"):
        sums.parse(f"{'0' * 64}  {path}\n", "SHA256SUMS")


@given(st.text())
def test_any_text_is_parsed_or_refused(text: str) -> None:
    with contextlib.suppress(UserError):
        assert isinstance(sums.parse(text, "SHA256SUMS"), dict)


def test_directory_without_sums_is_no_release(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is not a release"):
        sums.digest(tmp_path)
