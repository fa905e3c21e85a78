"""dvc.lock's digests are recomputed by DVC's rules."""

from pathlib import Path
from typing import Any

import pytest
from dvc_data.hashfile.hash_info import HashInfo
from dvc_data.hashfile.tree import Tree
from hypothesis import given
from hypothesis import strategies as st

from release import lock
from stages.settings import read_yaml
from tests.release import world

make_tree: Any = Tree  # dvc-data has no types


@given(st.dictionaries(st.from_regex(r"[a-zA-Zä_./-]{0,5}[a-z]", fullmatch=True), st.binary(max_size=9), max_size=6))
def test_directory_digest_is_dvcs(tmp_path_factory: pytest.TempPathFactory, contents: dict[str, bytes]) -> None:
    folder = tmp_path_factory.mktemp("files")
    files = {}
    tree = make_tree()
    for number, (relative, content) in enumerate(contents.items()):
        files[relative] = folder / str(number)
        files[relative].write_bytes(content)
        tree.add(tuple(relative.split("/")), None, HashInfo("md5", lock.md5_file(files[relative])))
    tree.digest()
    assert lock.md5_directory(files) == tree.oid


def test_released_lock_has_only_the_stages_before_it_in_order(tmp_path: Path) -> None:
    stages = {name: {"cmd": name} for name in ("publish", "snapshot", "release", "curate")}
    world.write_yaml(tmp_path / "dvc.lock", {"schema": "2.0", "stages": stages})
    (tmp_path / "released.lock").write_bytes(lock.of_the_release(tmp_path / "dvc.lock"))
    released = read_yaml(tmp_path / "released.lock")
    assert released["schema"] == "2.0"
    assert list(released["stages"]) == ["curate", "snapshot"]
