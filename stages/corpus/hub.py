"""Sources of kind `hub`: a data set's files at a commit, downloaded by huggingface_hub.

Its download takes the fast way (Xet) where there is one and goes on from where a connection broke, but it does not
compare what came with what the Hub says that it has: `stages.corpus.stores` does.
"""

import posixpath
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

from fsspec.utils import glob_translate  # type: ignore[import-untyped]  # it ships no types
from huggingface_hub import HfApi, constants
from huggingface_hub.hf_api import RepoFile, RepoFolder
from huggingface_hub.repocard import REGEX_YAML_BLOCK
from huggingface_hub.utils.tqdm import disable_progress_bars
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from release import hub_client
from release.retry import UnclearError, until_clear
from stages.corpus.candidates import Reference, select
from stages.corpus.progress import is_watched
from stages.corpus.sources import HubSource
from stages.corpus.stores import COMMIT, Listing, Store, fetched
from stages.errors import UserError
from stages.formats import formats

README = "README.md"
TIMEOUT_SECONDS = 60
T = TypeVar("T")


class HubStore(Store):
    """The files of one commit of a data set."""

    def __init__(self, source: HubSource, folder: Path, endpoint: str | None = None) -> None:
        """Keep what is fetched below `folder`; `endpoint` None is HF_ENDPOINT, or the public Hub."""
        super().__init__(f"data set '{source.dataset}' at {source.revision}")
        self._source, self._folder = source, folder
        self._api = HfApi(endpoint=endpoint)
        hub_client.set_timeout(TIMEOUT_SECONDS)
        if not is_watched():
            disable_progress_bars()

    def listing(self) -> Listing:
        """Return the files of the configuration and split that `include` and `exclude` leave."""
        if not COMMIT.fullmatch(self._source.revision):
            raise UserError(self._unpinned())
        stored = {file.path: file for file in self._tree()}
        selected = select(self._declared(stored), self._source.include, self._source.exclude)
        formats.check(selected, self.where, self._source.formats)
        return Listing({self._source.dataset: self._source.revision}, tuple(stored[path] for path in selected), {})

    def fetch(self, file: Reference) -> Path:
        """Download the file, unless it is here."""
        source = self._source

        def download() -> str:
            return self._api.hf_hub_download(
                source.dataset, file.path, repo_type="dataset", revision=source.revision, local_dir=self._folder
            )

        return Path(self._ask(f"'{file.path}' of {self.where}", download))

    def _tree(self) -> Iterator[Reference]:
        source = self._source

        def tree() -> list[RepoFile | RepoFolder]:
            return list(
                self._api.list_repo_tree(source.dataset, recursive=True, revision=source.revision, repo_type="dataset")
            )

        for entry in self._ask(self.where, tree):
            if isinstance(entry, RepoFile) and _stays_inside(entry.path):
                yield _reference(entry, source.revision)

    def _declared(self, stored: dict[str, Reference]) -> Iterable[str]:
        """Return the paths that the configuration and the split name; all where there is no configuration."""
        source = self._source
        if source.config is None:
            return stored
        configs = self._configs(stored)
        if source.config not in configs:
            raise UserError(
                f"config = '{source.config}' is not in the README of {self.where}; it has "
                f"{', '.join(map(repr, configs)) or 'no `configs`'}. Correct it, or give patterns as `include`."
            )
        splits = _patterns(configs[source.config])
        if not splits or source.split not in {None, *splits}:
            raise UserError(
                f"config '{source.config}' of {self.where} has no data_files for split = '{source.split}'; it has "
                f"{', '.join(map(repr, splits)) or 'none'}. Correct it, or give patterns as `include`."
            )
        wanted = [pattern for split in splits if source.split in (None, split) for pattern in splits[split]]
        matches = [re.compile(glob_translate(pattern)).match for pattern in wanted]
        return [path for path in stored if any(match(path) for match in matches)]

    def _configs(self, stored: dict[str, Reference]) -> dict[str, dict[str, Any]]:
        """Return the configurations that the README's front matter declares, by name."""
        if README not in stored:
            return {}
        try:
            front_matter = REGEX_YAML_BLOCK.search(fetched(self, stored[README]).read_text(encoding="utf-8"))
            card = YAML(typ="safe").load(front_matter[2]) if front_matter else {}
            return {config.get("config_name", "default"): config for config in card.get("configs") or []}
        except (UnicodeDecodeError, AttributeError, TypeError, YAMLError) as error:
            reason = " ".join(str(error).split())
            raise UserError(f"The README of {self.where} declares no readable `configs`: {reason}.") from error

    def _unpinned(self) -> str:
        name, dataset = self._source.revision, self._source.dataset
        if constants.is_offline_mode():
            return f"revision = '{name}' is no commit, and HF_HUB_OFFLINE is set: the Hub cannot be asked what it is."
        commit = self._ask(self.where, lambda: self._api.dataset_info(dataset, revision=name)).sha
        return (
            f"revision = '{name}' of data set '{dataset}' is not a commit's 40 hex digits, and a branch or tag may "
            f"move. It points to {commit} now: give that."
        )

    def _ask(self, what: str, call: Callable[[], T]) -> T:
        def attempt() -> T:
            try:
                return hub_client.answer(call, remedy, "If this is about Xet, set HF_HUB_DISABLE_XET=1")
            except UnclearError as error:
                raise UnclearError(f"{what}: {error}", error.wait) from error

        remedy = f"This was about {what}: check its name and commit, and whether HF_TOKEN may read it."
        return until_clear(attempt)


def _reference(entry: RepoFile, revision: str) -> Reference:
    """Return what the Hub says of a file: the SHA-256 of a large one, git's id of another."""
    if entry.lfs is not None:
        return Reference(entry.path, entry.size, f"sha256:{entry.lfs.sha256}", entry.lfs.sha256, revision)
    return Reference(entry.path, entry.size, f"git-blob:{entry.blob_id}", entry.blob_id, revision)


def _stays_inside(path: str) -> bool:
    return not PurePosixPath(path).is_absolute() and ".." not in PurePosixPath(path).parts


def _patterns(config: dict[str, Any]) -> dict[str, list[str]]:
    """Return a configuration's patterns by split, as `datasets` reads them: without a split it is `train`."""
    files = config.get("data_files") or {}
    if isinstance(files, str) or (isinstance(files, list) and all(isinstance(file, str) for file in files)):
        files = {"train": files}
    elif isinstance(files, list):
        files = {entry["split"]: entry["path"] for entry in files}
    folder = config.get("data_dir") or ""
    return {
        str(split): [
            posixpath.normpath(posixpath.join(folder, path)) for path in ([paths] if isinstance(paths, str) else paths)
        ]
        for split, paths in files.items()
    }
