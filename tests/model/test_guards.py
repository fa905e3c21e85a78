import math
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from model.guards import Guards, GuardSettings
from model.progress import Event, Progress

SPIKE = {"window": 4, "z_score": 3.0, "policy": "skip"}
SPREAD = [1.0, 2.0, 3.0, 4.0]
"""Mean 2.5, standard deviation sqrt(1.25)."""


def guards(**settings: object) -> Guards:
    return Guards(GuardSettings.model_validate({"loss_spike": SPIKE, **settings}))


EVENT = Event(kind="loss_spike", step=1, value="loss 9", action="skip")


def progress(losses: list[float] = SPREAD, actions: int = 0) -> Progress:
    return Progress(step=10, tokens=320, skipped_samples=[0], recent_losses=losses, events=[EVENT] * actions)


def test_a_sound_step_is_no_event() -> None:
    assert guards().judge(progress(), 2.6, 1.0) is None


@pytest.mark.parametrize(("loss", "grad_norm"), [(math.nan, 1.0), (math.inf, 1.0), (2.0, math.nan), (2.0, math.inf)])
@pytest.mark.parametrize("policy", ["stop", "skip", "roll_back"])
def test_what_is_not_finite_is_met_by_the_policy_with_or_without_a_window(
    loss: float, grad_norm: float, policy: str
) -> None:
    found = guards(non_finite=policy, loss_spike=None).judge(progress([]), loss, grad_norm)
    seen = f"loss {loss:.6g}, gradient norm {grad_norm:.6g}"
    assert found == Event(kind="non_finite", step=11, value=seen, action=policy)


def test_a_spike_is_a_loss_above_the_mean_by_more_than_the_z_score() -> None:
    limit = 2.5 + 3 * math.sqrt(1.25)
    assert guards().judge(progress(), limit - 1e-6, 1.0) is None
    found = guards().judge(progress(), limit + 1e-6, 1.0)
    assert found
    assert (found.kind, found.step, found.action) == ("loss_spike", 11, "skip")
    assert "3.0 standard deviations above 2.5, the mean of 4 steps" in found.value


def test_a_fall_of_the_loss_is_no_spike() -> None:
    assert guards().judge(progress(), -100.0, 1.0) is None


def test_no_loss_is_a_spike_before_the_window_is_full() -> None:
    assert guards().judge(progress([1.0, 1.0, 1.0]), 100.0, 1.0) is None


@pytest.mark.parametrize("level", [0.0, 2.0])
def test_where_losses_do_not_vary_a_jump_is_a_spike_and_the_last_digits_are_not(level: float) -> None:
    flat = progress([level] * 4)
    assert guards().judge(flat, level + 1e-9, 1.0) is None
    assert guards().judge(flat, level + 1.0, 1.0)


def test_the_window_holds_the_newest_finite_losses() -> None:
    state = progress([])
    for loss in (9.0, 1.0, math.nan, 2.0, math.inf, 3.0, 4.0):
        state = guards().remember(state, loss)
    assert state.recent_losses == SPREAD


def test_nothing_is_remembered_without_a_guard_that_compares() -> None:
    assert guards(loss_spike=None).remember(progress([]), 1.0).recent_losses == []


@pytest.mark.parametrize(("loss", "kind"), [(math.nan, "non_finite"), (100.0, "loss_spike")])
def test_a_run_stops_when_its_actions_are_used_up_and_says_so(loss: float, kind: str) -> None:
    guard = guards(non_finite="roll_back", max_actions=3)
    before, after = guard.judge(progress(actions=2), loss, 1.0), guard.judge(progress(actions=3), loss, 1.0)
    assert before
    assert before.action != "stop"
    assert after
    assert (after.kind, after.action) == (kind, "stop")
    assert "the 3 skips and roll-backs of pretrain.guards.max_actions are used up" in after.value


@given(st.lists(st.floats(0, 20) | st.just(math.nan), max_size=40), st.integers(0, 40))
def test_an_interrupted_run_decides_as_one_that_was_not(losses: list[float], interrupted: int) -> None:
    guard, state, other = guards(non_finite="skip"), progress([]), progress([])
    for step, loss in enumerate(losses):
        if step == interrupted:
            other = Progress.model_validate_json(other.model_dump_json())
        verdict = guard.judge(state, loss, 1.0)
        assert verdict == guard.judge(other, loss, 1.0)
        if verdict is None:
            state, other = guard.remember(state, loss), guard.remember(other, loss)
    assert state == other


def test_what_the_stage_and_the_launcher_need_is_there_without_torch() -> None:
    imports = {
        "model": "guards, plan, progress",
        "model.launching": "heartbeat, runtime",
        "model.logs": "energy, flops, log, trackers",
    }
    lines = [f"from {package} import {names}" for package, names in imports.items()]
    code = "\n".join(["import sys", *lines, "sys.exit('torch' in sys.modules)"])
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
