"""What is damaged, too large for the Hub, or secret does not leave the machine."""

import gzip
import io
import tarfile
from pathlib import Path

import pytest

from release import preflight, sums
from stages.errors import UserError

SECRET = "hf_" + "aB3" * 12


def _release(root: Path, **files: bytes) -> Path:
    for name, content in files.items():
        (root / name).write_bytes(content)
    sums.write(root)
    return root


def test_clean_release_passes(tmp_path: Path) -> None:
    assert set(preflight.check(_release(tmp_path, card=b"text"))) == {"card"}


def test_damaged_release_is_refused(tmp_path: Path) -> None:
    _release(tmp_path, card=b"text")
    (tmp_path / "card").write_bytes(b"Text")
    with pytest.raises(UserError, match="damaged and was not published: card"):
        preflight.check(tmp_path)


@pytest.mark.parametrize(
    "content",
    [
        f"token = '{SECRET}'".encode(),
        b"AKIA" + b"ABCDEFGHIJKLMNOP",
        b"-----BEGIN PRIVATE KEY-----\\n" + b"M" * 64,
        b"x" * (preflight.BLOCK - 10) + b" " + SECRET.encode(),
    ],
    ids=["hub", "aws", "key", "across blocks"],
)
def test_secret_is_named_but_not_shown(tmp_path: Path, content: bytes) -> None:
    with pytest.raises(UserError, match="'card' holds what looks like") as caught:
        preflight.check(_release(tmp_path, card=content))
    assert SECRET not in str(caught.value)


def test_secret_inside_the_source_archive_is_found(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        member = tarfile.TarInfo("settings.py")
        member.size = len(SECRET)
        tar.addfile(member, io.BytesIO(SECRET.encode()))
    _release(tmp_path, **{"source.tar.gz": gzip.compress(buffer.getvalue())})
    with pytest.raises(UserError, match=r"in settings\.py"):
        preflight.check(tmp_path)


def test_own_token_is_found_whatever_it_looks_like(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="token of this machine"):
        preflight.check(_release(tmp_path, card=b"correct horse"), tokens=["horse"])


def test_file_that_a_person_reviewed_passes(tmp_path: Path) -> None:
    assert preflight.check(_release(tmp_path, card=SECRET.encode()), reviewed=["card"])


def test_limits_of_the_hub_hold_before_any_request(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _release(tmp_path, card=b"text", more=b"text")
    monkeypatch.setattr(preflight, "MAX_FILE_BYTES", 3)
    monkeypatch.setattr(preflight, "MAX_ENTRIES_PER_DIRECTORY", 2)
    with pytest.raises(UserError, match=r"takes 2 in a directory.*'card' has 4 bytes"):
        preflight.check(tmp_path)
