"""Sources of kind `files` by reference: the files stay where they are, and are read there."""

from pathlib import Path

from stages.corpus.candidates import Reference
from stages.corpus.files import selected
from stages.corpus.sources import FilesSource
from stages.corpus.stores import Listing, Store, file_digest
from stages.errors import UserError


class FolderStore(Store):
    """The files below a folder of this machine."""

    def __init__(self, source: FilesSource, _: Path) -> None:
        """Read the files where they are."""
        super().__init__(f"'{source.root}'")
        self._source, self._root = source, Path(source.root)

    def listing(self) -> Listing:
        """Return the files that match, each read once for its digest."""
        return Listing({}, tuple(self._listed(path) for path in selected(self._source)), {})

    def fetch(self, file: Reference) -> Path:
        """Return where the file is."""
        path = self._root / file.path
        if not path.is_file():
            raise UserError(f"'{file.path}' of {self.where} is gone. Bring it back, or run `dvc repro snapshot`.")
        return path

    def forget(self, path: Path) -> None:
        """Leave the file: it was here before."""

    def _listed(self, path: str) -> Reference:
        file = self._root / path
        size = file.stat().st_size
        return Reference(path, size, file_digest(file, size, "sha256"))
