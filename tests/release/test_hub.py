"""Publishing to the Hub ends in exactly one commit with exactly the release, whatever goes wrong on the way."""

import dataclasses
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from release import hub, sums
from stages.errors import UserError
from tests.hub.server import TOKEN, Blob, Fault, Repository, Server

REPO = "testers/tiny"
TO = hub.Destination(REPO, "main", "v0.1.0", private=False, xet=False, timeout_seconds=5, move_version=False)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Server]:
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr(time, "sleep", lambda _seconds: None)
    with Server() as running:
        yield running


@pytest.fixture
def release(tmp_path: Path) -> Path:
    root = tmp_path / "release"
    (root / "data").mkdir(parents=True)
    (root / "README.md").write_text("---\nlicense: mit\n---\n# tiny\n")
    (root / "model.safetensors").write_bytes(bytes(range(256)) * 40)
    (root / "data" / "train.parquet").write_bytes(b"PAR1" * 100)
    (root / "empty").touch()
    sums.write(root)
    return root


def _publish(server: Server, release: Path, to: hub.Destination = TO) -> str:
    endpoint, commit = hub.publish(release, to, "tiny 0.1.0", server.url)
    assert endpoint == server.url
    return commit


def _assert_published(repository: Repository, release: Path, commit: str, commits: int = 1) -> None:
    assert repository.branches["main"] == repository.tags["v0.1.0"] == commit
    assert len(repository.history("main")) == commits + 1
    stored = {path: blob.content for path, blob in repository.commits[commit].items() if path != ".gitattributes"}
    assert stored == {path: (release / path).read_bytes() for path in sums.paths(release)}


def test_release_is_one_commit_with_its_tag(server: Server, release: Path) -> None:
    commit = _publish(server, release)
    _assert_published(server.repositories[REPO], release, commit)


def test_publishing_again_changes_nothing(server: Server, release: Path) -> None:
    commit = _publish(server, release)
    server.log.clear()
    assert _publish(server, release) == commit
    _assert_published(server.repositories[REPO], release, commit)
    assert {method for method, _ in server.log} <= {"GET", "HEAD"}


@pytest.mark.parametrize(
    "fault",
    [
        Fault("POST", "/commit/", 504, after=True),
        Fault("POST", "/commit/", 503, after=True),
        Fault("POST", "/commit/", 0, after=True),
        Fault("POST", "/commit/", 503),
        Fault("POST", "/commit/", 0),
        Fault("POST", "/commit/", 412),
        Fault("POST", "/commit/", 409),
        Fault("POST", "/commit/", 429, times=3),
        Fault("GET", "/tree/", 503),
        Fault("GET", "/refs", 0),
        Fault("POST", "/preupload/", 503),
        Fault("POST", "/tag/", 504, after=True),
        Fault("POST", "/tag/", 503),
        Fault("POST", "/repos/create", 504, after=True),
        Fault("POST", "/validate-yaml", 503),
        Fault("POST", "/verify", 500),
        Fault("PUT", "/storage/", 500),
    ],
    ids=lambda fault: f"{fault.method}{fault.path}{fault.status}{'-after' if fault.after else ''}".replace("/", "-"),
)
def test_fault_ends_in_exactly_one_commit(server: Server, release: Path, fault: Fault) -> None:
    fault = dataclasses.replace(fault)
    server.faults.append(fault)
    commit = _publish(server, release)
    assert fault.times == 0
    _assert_published(server.repositories[REPO], release, commit)


def test_what_the_branch_has_besides_is_removed(server: Server, release: Path) -> None:
    server.create(REPO).commit("main", {"old.bin": Blob(b"old", large=False), "README.md": Blob(b"#", large=False)})
    commit = _publish(server, release)
    _assert_published(server.repositories[REPO], release, commit, commits=2)


def test_ignore_file_on_the_hub_drops_nothing(server: Server, release: Path) -> None:
    server.create(REPO).commit("main", {".gitignore": Blob(b"*.safetensors\n", large=False)})
    _assert_published(server.repositories[REPO], release, _publish(server, release), commits=2)


def test_branch_is_made_when_it_is_missing(server: Server, release: Path) -> None:
    commit = _publish(server, release, dataclasses.replace(TO, revision="releases"))
    assert server.repositories[REPO].branches["releases"] == commit
    assert len(server.repositories[REPO].history("main")) == 1


def test_branch_that_somebody_else_moves_is_left_alone(server: Server, release: Path) -> None:
    repository = server.create(REPO)

    def somebody_else() -> None:
        repository.commit("main", {"theirs": Blob(b"", large=False)})

    server.faults.append(Fault("POST", "/commit/", 412, before=somebody_else))
    with pytest.raises(UserError, match=r"'main' of 'testers/tiny' moved from"):
        _publish(server, release)
    assert "theirs" in repository.commits[repository.branches["main"]]


def test_tag_of_another_release_does_not_move_unless_told_so(server: Server, release: Path) -> None:
    first = _publish(server, release)
    (release / "empty").write_text("no more")
    sums.write(release)
    with pytest.raises(UserError, match=rf"'v0\.1\.0' of '{REPO}' names another release \(commit {first}\)"):
        _publish(server, release)
    assert server.repositories[REPO].branches["main"] == first
    commit = _publish(server, release, dataclasses.replace(TO, move_version=True))
    _assert_published(server.repositories[REPO], release, commit, commits=2)


@pytest.mark.parametrize("status", [400, 401, 403, 413])
def test_refusal_is_final_and_leaves_no_commit(server: Server, release: Path, status: int) -> None:
    repository = server.create(REPO)
    server.faults.append(Fault("POST", "/commit/", status, times=99))
    with pytest.raises(UserError, match="The Hub refused") as caught:
        _publish(server, release)
    assert TOKEN not in str(caught.value)
    assert server.faults[0].times == 98
    assert len(repository.history("main")) == 1


def test_server_that_stays_away_is_given_up(server: Server, release: Path) -> None:
    server.faults.append(Fault("POST", "/commit/", 503, times=99))
    with pytest.raises(UserError, match="Gave up after 6 attempts"):
        _publish(server, release)


def test_stored_bytes_that_differ_are_found(server: Server, release: Path) -> None:
    repository = server.create(REPO)
    rotten = Fault("POST", "/tag/", 503, before=lambda: _rot(repository))
    server.faults.append(rotten)
    with pytest.raises(UserError, match=r"does not give the release back: model\.safetensors: sha256"):
        _publish(server, release)


def _rot(repository: Repository) -> None:
    """Flip a bit in what a download gives, and leave the tree's digests as they are."""
    files = repository.commits[repository.branches["main"]]
    blob = files["model.safetensors"]
    rotten = Blob(bytes([blob.content[0] ^ 1]) + blob.content[1:], large=True)
    vars(rotten).update(sha256=blob.sha256)
    files["model.safetensors"] = rotten


def test_visibility_is_never_changed(server: Server, release: Path) -> None:
    server.create(REPO, private=False)
    with pytest.raises(UserError, match=r"publish\.hub\.private = true, but 'testers/tiny' is public"):
        _publish(server, release, dataclasses.replace(TO, private=True))


def test_new_repository_is_private_when_asked(server: Server, release: Path) -> None:
    _publish(server, release, dataclasses.replace(TO, private=True))
    assert server.repositories[REPO].private


def test_missing_token_is_told(server: Server, release: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub, "get_token", lambda: None)
    with pytest.raises(UserError, match="HF_TOKEN"):
        _publish(server, release)
    assert not server.log


def test_token_never_reaches_the_storage(server: Server, release: Path) -> None:
    _publish(server, release)
    assert any(path.startswith("/storage/") for _, path in server.log)
