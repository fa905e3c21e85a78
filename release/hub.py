"""Publishing to the Hub: one commit with exactly the release's files, then its tag, then a download that is hashed.

Why not its `upload_folder`: above about 250 files that makes several
commits, it repeats a commit whose answer was lost (two commits, or a 412 against its own), and it uploads whatever
lies in the folder. Here the bytes go first (`preupload_lfs_files`, no commit), then one `create_commit` on a stated
parent; every attempt first reads the branch again and compares its files with the release.
"""

import dataclasses
import shutil
import tempfile
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, constants, get_token
from huggingface_hub.hf_api import RepoFile

from release import hub_client, sums
from release.git_objects import object_id
from release.retry import until_clear
from stages.errors import UserError

T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class Destination:
    """Where on the Hub a release goes, and how."""

    repo_id: str
    revision: str
    tag: str
    private: bool
    xet: bool
    timeout_seconds: int
    move_version: bool


def own_tokens() -> list[str]:
    """Return this machine's token, if it has one, so that it can be looked for in what is to be published."""
    return [token] if (token := get_token()) else []


def publish(root: Path, destination: Destination, title: str, endpoint: str | None = None) -> tuple[str, str]:
    """Publish a release that `release.preflight` passed; return (endpoint, commit). Repeating it changes nothing.

    Args:
        root: The release.
        destination: Repository, branch and tag.
        title: Name and version, for the commit's message.
        endpoint: The Hub; None is HF_ENDPOINT, or the public one.

    Raises:
        UserError: The Hub refused, the branch or the tag is somebody else's, or the stored bytes differ.
    """
    _configure(destination)
    repository = _Repository(HfApi(endpoint=endpoint, token=_token()), destination)
    repository.ensure()
    files = {**sums.read(root), sums.SUMS: sums.digest(root)}
    commit = repository.tagged(root, files) or repository.commit(root, files, title)
    repository.tag(commit)
    repository.check_download(root, commit)
    return repository.api.endpoint, commit


def _configure(destination: Destination) -> None:
    """Give every request a timeout, and choose how large files travel; both are global in huggingface_hub."""
    hub_client.set_timeout(destination.timeout_seconds)
    warnings.filterwarnings("ignore", message=".*about to commit a data file", module="huggingface_hub")
    if not destination.xet:
        constants.HF_HUB_DISABLE_XET = True


def _token() -> str:
    if constants.is_offline_mode():
        raise UserError("publish.target = 'hub', but HF_HUB_OFFLINE is set. Unset it, or publish to 'local'.")
    if (token := get_token()) is None:
        raise UserError("publish.target = 'hub' needs a token that may write: set HF_TOKEN, or run `hf auth login`.")
    return token


class _Repository:
    """One model repository on the Hub, and the branch and tag that a release gets there."""

    def __init__(self, api: HfApi, destination: Destination):
        self.api = api
        self.to = destination

    def ensure(self) -> None:
        """Make the repository if it is missing; refuse one whose visibility is not the stated."""
        repo_id = self.to.repo_id
        if not _ask(lambda: self.api.repo_exists(repo_id)):
            _ask(lambda: self.api.create_repo(repo_id, private=self.to.private, exist_ok=True))
        if bool(_ask(lambda: self.api.model_info(repo_id)).private) != self.to.private:
            raise UserError(
                f"publish.hub.private = {str(self.to.private).lower()}, but '{repo_id}' is "
                f"{'public' if self.to.private else 'private'}. Change one of the two; publishing never does."
            )

    def tagged(self, root: Path, files: Mapping[str, str]) -> str | None:
        """Return the tag's commit when it holds this release, None when there is no such tag or it may be moved."""
        commit = self._refs("tags").get(self.to.tag)
        if commit is None or not self._unlike(commit, root, files):
            return commit
        self._may_move_tag(commit)
        return None

    def commit(self, root: Path, files: Mapping[str, str], title: str) -> str:
        """Make the branch hold exactly the release, by one commit unless it does already; return its id.

        Files that the branch has and the release has not are deleted, .gitattributes excepted.
        """
        if self.to.revision not in self._refs("branches"):
            _ask(lambda: self.api.create_branch(self.to.repo_id, branch=self.to.revision, exist_ok=True))
        parent = self._head()
        unlike = self._unlike(parent, root, files)
        additions = [CommitOperationAdd(path, root / path) for path in unlike if path in files]
        deletions = [CommitOperationDelete(path, is_folder=False) for path in unlike if path not in files]
        self._upload(additions)

        def attempt() -> str:
            head = self._head()
            if not self._unlike(head, root, files):
                return head
            if head != parent:
                raise UserError(
                    f"'{self.to.revision}' of '{self.to.repo_id}' moved from {parent} to {head} meanwhile, and not by "
                    "this release. See who else writes there, then run `dvc repro publish` again."
                )
            return _answer(
                lambda: self.api.create_commit(
                    self.to.repo_id,
                    [*additions, *deletions],
                    commit_message=f"Release {title}",
                    commit_description=f"Release digest: {sums.digest(root)}",
                    revision=self.to.revision,
                    parent_commit=parent,
                )
            ).oid

        return until_clear(attempt)

    def tag(self, commit: str) -> None:
        """Make the tag name `commit`."""

        def attempt() -> None:
            named = self._refs("tags").get(self.to.tag)
            if named is not None and named != commit:
                self._may_move_tag(named)
                _answer(lambda: self.api.delete_tag(self.to.repo_id, tag=self.to.tag))
            if named != commit:
                _answer(lambda: self.api.create_tag(self.to.repo_id, tag=self.to.tag, revision=commit))

        until_clear(attempt)

    def check_download(self, root: Path, commit: str) -> None:
        """Download the commit and hash it: neither the Hub nor its client compares what a download holds."""
        with tempfile.TemporaryDirectory() as scratch:
            files = Path(scratch, "files")
            _ask(
                lambda: self.api.snapshot_download(
                    self.to.repo_id, revision=commit, local_dir=files, cache_dir=Path(scratch, "cache")
                )
            )
            shutil.rmtree(files / ".cache", ignore_errors=True)  # the client's own notes
            differing = list(sums.differences(files, sums.ADDED_BY_THE_HUB))
            if not differing and sums.digest(files) == sums.digest(root):
                return
            raise UserError(
                f"'{self.to.repo_id}' at commit {commit} does not give the release back: "
                f"{'; '.join(differing[:5]) or f'another {sums.SUMS}'}. The Hub stores other bytes than were sent."
            )

    def _upload(self, additions: list[CommitOperationAdd]) -> None:
        """Send the large files, without a commit. The empty ignore list outweighs a .gitignore on the Hub."""
        if additions:
            _ask(
                lambda: self.api.preupload_lfs_files(
                    self.to.repo_id,
                    additions,
                    revision=self.to.revision,
                    free_memory=False,
                    gitignore_content="",
                )
            )

    def _may_move_tag(self, commit: str) -> None:
        if not self.to.move_version:
            raise UserError(
                f"Tag '{self.to.tag}' of '{self.to.repo_id}' names another release (commit {commit}). "
                "Raise release.version, or set publish.hub.move_version = true to move the tag."
            )

    def _refs(self, kind: str) -> dict[str, str]:
        refs = _ask(lambda: self.api.list_repo_refs(self.to.repo_id))
        return {ref.name: ref.target_commit for ref in getattr(refs, kind)}

    def _head(self) -> str:
        return self._refs("branches")[self.to.revision]

    def _unlike(self, commit: str, root: Path, files: Mapping[str, str]) -> list[str]:
        """Return the paths where the commit's files are not the release's."""
        tree = _ask(lambda: list(self.api.list_repo_tree(self.to.repo_id, revision=commit, recursive=True)))
        stored = {entry.path: entry for entry in tree if isinstance(entry, RepoFile)}
        paths = files.keys() | (stored.keys() - sums.ADDED_BY_THE_HUB)
        return sorted(path for path in paths if not _holds(stored.get(path), root / path, files.get(path)))


def _holds(stored: RepoFile | None, path: Path, sha256: str | None) -> bool:
    """Whether the Hub has this file's bytes: it names large files by their sha256, others by their git blob id."""
    if stored is None or sha256 is None or stored.size != path.stat().st_size:
        return False
    if stored.lfs is not None:
        return stored.lfs.sha256 == sha256
    return stored.blob_id == object_id("blob", path.read_bytes())


def _ask(call: Callable[[], T]) -> T:
    """Return the answer to what may be asked any number of times."""
    return until_clear(lambda: _answer(call))


def _answer(call: Callable[[], T]) -> T:
    """Return the Hub's answer; tell the unclear (`UnclearError`) from the final (`UserError`)."""
    return hub_client.answer(
        call,
        "Check publish.hub.repo_id and the rights of the token.",
        "If this is about Xet, set publish.hub.xet = false",
    )
