"""The stage publishes the release whole, once, and leaves a receipt that says the same every time."""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from release import registry, sums
from stages import publish
from stages.errors import UserError
from stages.settings import read_yaml
from tests.hub.server import TOKEN, Server
from tests.release import world


def _set(hub: dict[str, Any] | None = None, **values: Any) -> None:
    params = read_yaml(Path("params.yaml"))
    params["publish"].update(values)
    params["publish"]["hub"].update(hub or {})
    world.write_yaml(Path("params.yaml"), params)


def test_publishing_twice_gives_the_same_receipt_and_registry(released_run: Path) -> None:
    publish.main()
    first = {path: path.read_bytes() for path in (released_run / "out" / "publish").rglob("*") if path.is_file()}
    publish.main()
    assert {
        path: path.read_bytes() for path in (released_run / "out" / "publish").rglob("*") if path.is_file()
    } == first


def test_registry_gives_the_release_back(released_run: Path) -> None:
    publish.main()
    receipt = world.read(released_run / "out" / "publish" / "receipt.json")
    digest = registry.restore(Path("out/publish/registry"), "tiny", "0.1.0", released_run / "restored")
    assert receipt["digest"] == digest == sums.digest(released_run / "out" / "release")
    assert receipt["files"] == len(sums.paths(released_run / "restored"))


def test_damaged_release_is_not_published(released_run: Path) -> None:
    (released_run / "out" / "release" / "README.md").write_text("other")
    with pytest.raises(UserError, match=r"damaged and was not published: README\.md"):
        publish.main()
    assert not (released_run / "out" / "publish").exists()


def test_missing_release_is_told(released_run: Path) -> None:
    shutil.rmtree(released_run / "out" / "release")
    with pytest.raises(UserError, match="dvc repro release"):
        publish.main()


def test_hub_without_a_repository_is_refused(released_run: Path) -> None:
    _set(target="hub")
    with pytest.raises(UserError, match=r"publish\.hub\.repo_id"):
        publish.main()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"target": "ftp"}, r"publish\.target"),
        ({"hub": {"repo_id": "no-namespace"}}, r"publish\.hub\.repo_id"),
        ({"hub": {"timeout_seconds": 0}}, r"publish\.hub\.timeout_seconds"),
        ({"registry": "x"}, r"publish\.registry is not a parameter"),
    ],
)
def test_bad_parameter_is_named(released_run: Path, values: dict[str, Any], message: str) -> None:
    _set(**values)
    with pytest.raises(UserError, match=message):
        publish.main()


def _publish_to(server: Server, token: str = TOKEN) -> "subprocess.CompletedProcess[str]":
    environment = os.environ | {
        "HF_ENDPOINT": server.url,
        "HF_TOKEN": token,
        "HF_HOME": str(Path.cwd() / "hub"),
        "HF_HUB_OFFLINE": "0",
        "PYTHONPATH": str(Path(publish.__file__).parents[1]),
    }
    return subprocess.run([sys.executable, "-m", "stages.publish"], env=environment, capture_output=True, text=True)


def test_hub_of_the_environment_gets_the_release_once(released_run: Path) -> None:
    _set(target="hub", hub={"repo_id": "testers/tiny", "private": True})
    with Server() as server:
        receipts = []
        for _ in range(2):
            done = _publish_to(server)
            assert done.returncode == 0, done.stderr
            assert TOKEN not in done.stderr + done.stdout
            receipts.append((released_run / "out" / "publish" / "receipt.json").read_bytes())
        repository = server.repositories["testers/tiny"]
        assert receipts[0] == receipts[1]
        receipt = world.read(released_run / "out" / "publish" / "receipt.json")
        assert receipt["endpoint"] == server.url
        assert repository.tags == {"v0.1.0": receipt["commit"]}
        assert len(repository.history("main")) == 2


def test_hub_that_refuses_the_token_is_told_in_one_line(released_run: Path) -> None:
    _set(target="hub", hub={"repo_id": "testers/tiny"})
    with Server() as server:
        done = _publish_to(server, token="hf_wrong")
    assert done.returncode == 1
    assert done.stderr.startswith("publish: The Hub refused")
    assert not (released_run / "out" / "publish" / "receipt.json").exists()
