"""Checkpoints of small states, in this process and on two gloo processes: whole, equal, and never lost."""

import json
import os
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch.multiprocessing.spawn import spawn

from model import megatron, parallel
from model.checkpoints import checkpoint, digests
from model.checkpoints.checkpoint import Checkpoints
from model.launching.runtime import LocalLaunch, RuntimeSettings
from model.layout import LayoutSettings
from model.progress import Event, Progress
from stages.errors import UserError
from stages.files import sha256_tree
from tests.model.two_processes import free_port

megatron.install()

from megatron.core.dist_checkpointing import ShardedObject, ShardedTensor  # noqa: E402 - after install

FINGERPRINT = "0123456789abcdef" * 4


@pytest.fixture
def one_process() -> Iterator[None]:
    with parallel.processes(LayoutSettings(), "cpu", num_threads=1, seed=0):
        yield


def tensors(seed: int, rows: int = 8) -> dict[str, torch.Tensor]:
    random = torch.Generator().manual_seed(seed)
    return {name: torch.randn(rows, 4, generator=random) for name in ("weight", "exp_avg")}


def sharded(values: dict[str, torch.Tensor], seed: int = 0) -> dict[str, Any]:
    """Return a state dict whose tensors are cut by rows over the ranks, with an object of each rank, and one common."""
    rank, ranks = dist.get_rank(), dist.get_world_size()
    cut = {
        name: ShardedTensor.from_rank_offsets(name, value.chunk(ranks)[rank], (0, rank, ranks))
        for name, value in values.items()
    }
    draws = {"seed": seed + rank, "states": [torch.arange(3), ("a", 2.5)]}
    return {
        **cut,
        "random_states": ShardedObject("random_states", draws, (ranks,), (rank,)),
        "groups": [{"step": seed}],
    }


def progress(step: int) -> Progress:
    event = Event(kind="loss_spike", step=step, value="9.0", action="skip")
    return Progress(
        step=step, tokens=64 * step, skipped_samples=[3], recent_losses=[0.1, 1 / 3], events=[event], logged=1
    )


def checkpoints(folder: Path, apart: bool = True, fingerprint: str = FINGERPRINT) -> Checkpoints:
    """Return checkpoints at every second step, of which two are kept."""
    runtime = RuntimeSettings(
        launch=LocalLaunch(kind="local"),
        data_workers=0,
        keep_checkpoints=2,
        async_checkpoints=apart,
        heartbeat_seconds=60,
    )
    return Checkpoints(folder, runtime, 2, fingerprint)


def save_steps(folder: Path, *steps: int, apart: bool = False, rows: int = 8) -> Checkpoints:
    kept = checkpoints(folder, apart)
    for step in steps:
        kept.save(step, sharded(tensors(step, rows), step), progress(step))
    kept.finish()
    return kept


def content(folder: Path) -> list[str]:
    """Return the names in a folder, once what was discarded there is gone."""
    while any(folder.glob("*.discarded")):
        time.sleep(0.01)
    return sorted(path.name for path in folder.iterdir())


def test_a_checkpoint_gives_back_what_was_saved(one_process: None, tmp_path: Path) -> None:
    kept = save_steps(tmp_path, 2)
    loaded, place = kept.load(2, sharded(tensors(0)))
    assert all(torch.equal(loaded[name], value) for name, value in tensors(2).items())
    assert loaded["random_states"]["seed"] == 2
    assert loaded["random_states"]["states"][1] == ("a", 2.5)
    assert loaded["groups"] == [{"step": 2}]
    assert place == progress(2)


def test_its_bytes_depend_on_the_state_alone(one_process: None, tmp_path: Path) -> None:
    save_steps(tmp_path / "meanwhile", 2, apart=True)
    save_steps(tmp_path / "in_place", 2, apart=False)
    assert sha256_tree(tmp_path / "meanwhile" / "step-00000002") == sha256_tree(tmp_path / "in_place" / "step-00000002")


def test_order_and_identity_of_objects_do_not_show_in_its_bytes(one_process: None, tmp_path: Path) -> None:
    pair = [2.5, "a word"]
    for name, pairs in (("one_object", [pair, pair]), ("two_objects", [pair, list(pair)])):
        parts = list(tensors(1).items())
        state = sharded(dict(parts if name == "one_object" else reversed(parts)))
        state["groups"], state["own"] = pairs, ShardedObject("own", pairs, (1,), (0,))
        checkpoint.save(tmp_path / name, state)
    assert sha256_tree(tmp_path / "one_object") == sha256_tree(tmp_path / "two_objects")


def test_training_goes_on_without_a_trace_in_what_is_being_written(one_process: None, tmp_path: Path) -> None:
    kept = checkpoints(tmp_path)
    live = tensors(1, rows=2**20)
    before = live["weight"].clone()
    state = sharded({})
    state["weight"] = ShardedTensor.from_rank_offsets("weight", live["weight"])
    kept.save(2, state, progress(2))
    live["weight"].zero_()
    kept.finish()
    wanted = {"weight": ShardedTensor.from_rank_offsets("weight", live["weight"])}
    assert torch.equal(kept.load(2, wanted)[0]["weight"], before)


def test_the_newest_are_kept_and_the_newest_regular_one(one_process: None, tmp_path: Path) -> None:
    save_steps(tmp_path, 2, 4)
    assert content(tmp_path) == ["step-00000002", "step-00000004"]
    save_steps(tmp_path, 5, 7)  # a run that was told to stop saves at any step
    assert content(tmp_path) == ["step-00000004", "step-00000005", "step-00000007"]
    save_steps(tmp_path, 8)
    assert content(tmp_path) == ["step-00000007", "step-00000008"]


def test_a_roll_back_goes_to_the_last_regular_step_before(one_process: None, tmp_path: Path) -> None:
    kept = checkpoints(tmp_path)
    assert [kept.regular(step) for step in (1, 2, 3, 4, 5)] == [0, 0, 2, 2, 4]


def test_after_a_roll_back_later_checkpoints_are_gone(one_process: None, tmp_path: Path) -> None:
    save_steps(tmp_path, 2, 3)
    again = checkpoints(tmp_path)
    assert again.newest() == 3
    again.load(2, sharded(tensors(0)))
    assert content(tmp_path) == ["step-00000002"]


def test_what_a_killed_run_left_unfinished_is_removed(one_process: None, tmp_path: Path) -> None:
    save_steps(tmp_path, 2)
    shutil.copytree(tmp_path / "step-00000002", tmp_path / "step-00000004.partial")
    shutil.copytree(tmp_path / "step-00000002", tmp_path / "released" / "step-00000004.partial")
    assert checkpoints(tmp_path).newest() == 2
    assert content(tmp_path) == ["released", "step-00000002"]
    assert content(tmp_path / "released") == []


def flip_a_byte(folder: Path, of_rank: int = 0) -> None:
    file = folder / f"__{of_rank}_0.distcp"
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)


def truncate(folder: Path) -> None:
    os.truncate(folder / "__0_0.distcp", 100)


def delete_a_file(folder: Path) -> None:
    (folder / "common.pt").unlink()


def delete_the_digests(folder: Path) -> None:
    (folder / digests.NAME).unlink()


def garble_the_digests(folder: Path) -> None:
    (folder / digests.NAME).write_text('{"common.pt": ')


def change_the_progress(folder: Path) -> None:
    file = folder / "progress.json"
    file.write_text(file.read_text().replace('"step": 4', '"step": 5'))


DAMAGES = {
    flip_a_byte: "__0_0.distcp does not have its SHA-256",
    truncate: "__0_0.distcp has 100 bytes, not ",
    delete_a_file: "common.pt: No such file",
    delete_the_digests: "digests.json is missing or unreadable",
    garble_the_digests: "digests.json is missing or unreadable",
    change_the_progress: "progress.json does not have its SHA-256",
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_checkpoint_is_put_aside_and_the_one_before_it_used(
    damage: Any, one_process: None, tmp_path: Path
) -> None:
    save_steps(tmp_path, 2, 4)
    damage(tmp_path / "step-00000004")
    kept = checkpoints(tmp_path)
    assert kept.newest() == 2
    [message] = kept.damaged
    assert "step-00000004" in message and DAMAGES[damage] in message
    assert content(tmp_path) == ["step-00000002", "step-00000004.damaged-1"]


def test_a_damaged_checkpoint_is_not_rolled_back_to(one_process: None, tmp_path: Path) -> None:
    save_steps(tmp_path, 2, 4)
    flip_a_byte(tmp_path / "step-00000002")
    kept = checkpoints(tmp_path)
    assert kept.newest() == 4
    with pytest.raises(UserError, match="step-00000002' is damaged"):
        kept.load(2, sharded(tensors(0)))


def test_a_checkpoint_of_another_job_is_refused(one_process: None, tmp_path: Path) -> None:
    save_steps(tmp_path, 2)
    with pytest.raises(UserError, match="another job"):
        checkpoints(tmp_path, fingerprint="f" * 64).newest()


def test_a_released_checkpoint_has_the_same_bytes_when_the_run_passes_it_again(
    one_process: None, tmp_path: Path
) -> None:
    kept = checkpoints(tmp_path)
    folder = tmp_path / "released" / "step-00000001"
    seen = []
    for _ in range(2):
        kept.release(1, {"weight": sharded(tensors(1))["weight"]})
        kept.finish()
        seen.append(sha256_tree(folder))
        flip_a_byte(folder)
    assert seen[0] == seen[1]
    assert content(folder) == [".metadata", "__0_0.distcp", "common.pt", "digests.json", "metadata.json"]
    assert kept.newest() is None


@pytest.mark.parametrize("apart", [False, True])
def test_a_write_that_fails_says_so_and_leaves_the_one_before(apart: bool, one_process: None, tmp_path: Path) -> None:
    kept = save_steps(tmp_path, 2, apart=apart, rows=2**14)
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**16, limit[1]))  # of all ways to fail, one that a test can lift again
    try:
        with pytest.raises(UserError, match=r"step-00000004' could not .*: rank 0: .*File too large.*free space"):
            kept.save(4, sharded(tensors(1, rows=2**14)), progress(4))
            kept.finish()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    assert content(tmp_path) == ["step-00000002"]
    kept.save(4, sharded(tensors(4, rows=2**14)), progress(4))
    kept.finish()
    assert kept.newest() == 4


def fill_the_disk(folder: str) -> None:
    """Save until the file system of `folder`, of 1 MiB, is full, and print what comes of it."""
    with parallel.processes(LayoutSettings(), "cpu", num_threads=1, seed=0):
        save_steps(Path(folder), 2)
        kept = checkpoints(Path(folder))
        try:
            kept.save(4, sharded(tensors(1, rows=2**16)), progress(4))
            kept.finish()
        except UserError as error:
            json.dump({"message": str(error), "left": content(Path(folder)), "newest": kept.newest()}, sys.stdout)


@pytest.mark.e2e
def test_a_full_disk_is_said_and_what_was_there_stays(tmp_path: Path) -> None:
    apart = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c"]
    if subprocess.run([*apart, "mount -t tmpfs tmpfs /mnt"], capture_output=True).returncode:
        pytest.skip("a file system of one's own needs user namespaces")
    code = "import sys; from tests.model.checkpoints.test_checkpoint import fill_the_disk; fill_the_disk(sys.argv[1])"
    mount = 'mount -t tmpfs -o size=1m tmpfs "$0" && exec "$@"'
    command = [*apart, mount, str(tmp_path), sys.executable, "-W", "ignore", "-c", code, str(tmp_path)]
    ended = subprocess.run(command, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    found = json.loads(ended.stdout)
    assert "No space left on device" in found["message"]
    assert found["left"] == ["step-00000002"]
    assert found["newest"] == 2


class OnTwoRanks:
    """What two ranks saw, by rank, and the folder they saved in."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        spawn(save_on_a_rank, args=(str(free_port()), str(folder)), nprocs=2)
        self.seen = [json.loads((folder / f"seen-{rank}.json").read_text()) for rank in range(2)]


def save_on_a_rank(rank: int, port: str, root: str) -> None:
    os.environ.update(RANK=str(rank), WORLD_SIZE="2", LOCAL_RANK=str(rank), MASTER_ADDR="localhost", MASTER_PORT=port)
    folder = Path(root)
    with parallel.processes(LayoutSettings(data_parallel_size=2), "cpu", num_threads=1, seed=0):
        kept = save_steps(folder / "apart", 2, 4, apart=True)
        save_steps(folder / "in_place", 2, 4)
        seen: dict[str, Any] = {"failure": failure_of_rank_1(rank, checkpoints(folder / "apart"))}
        if rank == 0:
            flip_a_byte(kept.path(4), of_rank=1)
        dist.barrier()
        again = checkpoints(folder / "apart")
        seen.update(newest=again.newest(), damaged=again.damaged)
        (folder / f"seen-{rank}.json").write_text(json.dumps(seen))


def failure_of_rank_1(rank: int, kept: Checkpoints) -> str:
    if rank == 1:
        resource.setrlimit(resource.RLIMIT_FSIZE, (2**10, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
    with pytest.raises(UserError) as failed:
        kept.save(6, sharded(tensors(1, rows=2**10)), progress(6))
        kept.finish()
    if rank == 1:
        limit = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    return str(failed.value)


@pytest.fixture(scope="module")
def two_ranks(tmp_path_factory: pytest.TempPathFactory) -> OnTwoRanks:
    return OnTwoRanks(tmp_path_factory.mktemp("two_ranks"))


@pytest.mark.e2e
def test_two_ranks_write_the_same_bytes_in_place_and_apart(two_ranks: OnTwoRanks) -> None:
    in_place, apart = (two_ranks.folder / name / "step-00000002" for name in ("in_place", "apart"))
    assert content(apart) == [
        *(".metadata", "__0_0.distcp", "__1_0.distcp", "common.pt", "digests.json", "metadata.json", "progress.json")
    ]
    assert sha256_tree(in_place) == sha256_tree(apart)


@pytest.mark.e2e
def test_one_process_loads_what_two_saved(two_ranks: OnTwoRanks, one_process: None) -> None:
    wanted = {name: ShardedTensor.from_rank_offsets(name, torch.empty(8, 4)) for name in ("weight", "exp_avg")}
    loaded = checkpoint.load(two_ranks.folder / "in_place" / "step-00000004", wanted)
    assert all(torch.equal(loaded[name], value) for name, value in tensors(4).items())


@pytest.mark.e2e
def test_the_failure_of_one_rank_is_raised_on_every_rank(two_ranks: OnTwoRanks) -> None:
    first, second = (seen["failure"] for seen in two_ranks.seen)
    assert "rank 1: " in first and "File too large" in first and "rank 0: " not in first
    assert first == second


@pytest.mark.e2e
def test_damage_to_the_file_of_one_rank_is_seen_alike_by_all(two_ranks: OnTwoRanks) -> None:
    assert [seen["newest"] for seen in two_ranks.seen] == [2, 2]
    first, second = (seen["damaged"] for seen in two_ranks.seen)
    assert first == second
    assert "__1_0.distcp does not have its SHA-256" in first[0]
