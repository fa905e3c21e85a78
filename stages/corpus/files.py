"""Sources of kind `files`: texts below a folder. What a file is made of is for stages.formats to know."""

from pathlib import Path

from stages.corpus.candidates import Reading, select
from stages.corpus.sources import FilesSource
from stages.corpus.texts import of_file
from stages.corpus.walk import entries_below
from stages.errors import UserError
from stages.formats import formats


def read(source: FilesSource) -> Reading:
    """Open a source of kind `files`.

    Raises:
        UserError: The folder is missing, or a selected file is of no known format.
    """
    root = Path(source.root)
    return Reading({}, (candidate for path in selected(source) for candidate in of_file(source, root / path, path)))


def selected(source: FilesSource) -> list[str]:
    """Return the files below the root that the patterns select.

    Raises:
        UserError: The folder is missing, a link in it leads nowhere or in a circle, or a file is of no known format.
    """
    root = Path(source.root)
    if not root.is_dir():
        raise UserError(f"A source's root = '{source.root}' is not a folder. Correct it, or fetch its files first.")
    paths = select(entries_below(root), source.include, source.exclude)
    for path in paths:
        if not (root / path).is_file():
            raise UserError(
                f"'{path}' in '{source.root}' is a link to nothing, or to a folder that it lies in. "
                "Mend it, or add it to `exclude`."
            )
    formats.check(paths, f"'{source.root}'", source.formats)
    return paths
