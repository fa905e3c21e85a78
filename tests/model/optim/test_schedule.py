"""The learning rate: its shape, Megatron-Core's scheduler as the measure, and branches of a stable run."""

import itertools
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from model import megatron
from model.optim.schedule import ScheduleSettings, learning_rate

megatron.install()

from megatron.core.optimizer_param_scheduler import OptimizerParamScheduler  # noqa: E402 - after install

PEAK, FLOOR = 3e-3, 1e-4


def schedule(style: str, warmup_steps: int, **settings: Any) -> ScheduleSettings:
    return ScheduleSettings.model_validate(
        {"learning_rate": PEAK, "min_learning_rate": FLOOR, "style": style, "warmup_steps": warmup_steps, **settings}
    )


@st.composite
def runs(draw: st.DrawFn) -> tuple[ScheduleSettings, int]:
    """A schedule that decays, and the steps of a run that it fits."""
    style = draw(st.sampled_from(["cosine", "linear", "wsd"]))
    warmup, decay, more = draw(st.integers(0, 40)), draw(st.integers(1, 40)), draw(st.integers(1, 200))
    if style != "wsd":
        return schedule(style, warmup), warmup + more
    shape = draw(st.sampled_from(["cosine", "linear", "square_root"]))
    return schedule(style, warmup, decay_steps=decay, decay_shape=shape), warmup + decay + more


@given(runs())
def test_the_rate_climbs_in_a_line_to_the_peak_and_falls_to_the_floor(run: tuple[ScheduleSettings, int]) -> None:
    settings, steps = run
    rates = [learning_rate(settings, step, steps) for step in range(1, steps + 1)]
    warmup = settings.warmup_steps
    assert rates[:warmup] == pytest.approx([PEAK * step / warmup for step in range(1, warmup + 1)])
    assert max(rates) == PEAK if warmup or settings.style == "wsd" else max(rates) < PEAK
    assert rates[-1] == pytest.approx(FLOOR)
    falling = rates[max(warmup - 1, 0) :]
    assert all(later <= earlier for earlier, later in itertools.pairwise(falling))


@pytest.mark.parametrize(
    ("style", "settings", "megatron_style"),
    [
        ("cosine", {}, {"lr_decay_style": "cosine"}),
        ("linear", {}, {"lr_decay_style": "linear"}),
        ("constant", {}, {"lr_decay_style": "constant"}),
        ("wsd", {"decay_shape": "linear"}, {"lr_wsd_decay_style": "linear"}),
        ("wsd", {"decay_shape": "cosine"}, {"lr_wsd_decay_style": "cosine"}),
        ("wsd", {"decay_shape": "square_root"}, {"lr_wsd_decay_style": "minus_sqrt"}),
    ],
)
@pytest.mark.parametrize("warmup_steps", [0, 7])
def test_every_rate_is_that_of_megatron_core(
    style: str, settings: dict[str, str], megatron_style: dict[str, str], warmup_steps: int
) -> None:
    steps, decay_steps = 50, 12 if style == "wsd" else 0
    ours = schedule(style, warmup_steps, decay_steps=decay_steps, **settings)
    group: dict[str, Any] = {"max_lr": PEAK, "min_lr": FLOOR}
    theirs = OptimizerParamScheduler(
        SimpleNamespace(param_groups=[group]),
        init_lr=0.0,
        max_lr=PEAK,
        min_lr=FLOOR,
        lr_warmup_steps=warmup_steps,
        lr_decay_steps=steps,
        start_wd=0.1,
        end_wd=0.1,
        wd_incr_steps=0,
        wd_incr_style="constant",
        **{"lr_decay_style": "WSD", "wsd_decay_steps": decay_steps, **megatron_style},
    )
    for step in range(1, steps + 1):
        theirs.step(increment=1)  # before the update, as the first step would have rate 0 otherwise
        assert learning_rate(ours, step, steps) == pytest.approx(group["lr"], rel=1e-12)


@given(st.integers(0, 30), st.integers(1, 30), st.integers(1, 100), st.integers(0, 100))
def test_a_decay_branched_from_a_stable_run_is_a_run_planned_so(
    warmup: int, decay: int, stable: int, more: int
) -> None:
    branch = schedule("wsd", warmup, decay_steps=decay)
    steps = warmup + stable + decay
    for trunk, trunk_steps in (schedule("constant", warmup), steps + more), (branch, steps + more):
        for step in range(1, warmup + stable + 1):
            assert learning_rate(trunk, step, trunk_steps) == learning_rate(branch, step, steps)
    decayed = [learning_rate(branch, step, steps) for step in range(warmup + stable + 1, steps + 1)]
    planned = [
        learning_rate(branch, step, steps + more) for step in range(warmup + stable + more + 1, steps + more + 1)
    ]
    assert decayed == planned


@pytest.mark.parametrize(
    "settings",
    [
        {"style": "wsd", "warmup_steps": 1},
        {"style": "cosine", "warmup_steps": 1, "decay_steps": 5},
        {"style": "linear", "warmup_steps": 1, "min_learning_rate": 1.0},
    ],
)
def test_a_schedule_that_contradicts_itself_is_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match=r"wsd needs decay_steps|is above learning_rate"):
        schedule(**settings)
