from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model.families.family import ModelSettings
from model.plan import Plan, check, check_epochs, final_model
from model.settings import PretrainSettings, ReleasedSettings
from stages.errors import UserError
from tests.model import corpus

PARAMS: dict[str, Any] = corpus.params()
MODEL = ModelSettings.model_validate(PARAMS["model"])


def pretrain(**changes: Any) -> PretrainSettings:
    return PretrainSettings.model_validate({**PARAMS["pretrain"], **changes})


def phase(tokens: int, size: int, **changes: Any) -> dict[str, Any]:
    return {"tokens": tokens, "blend": {"code": 1.0}, "global_batch_size": size, **changes}


phases = st.lists(
    st.builds(phase, st.integers(1, 20_000), st.integers(1, 16), seq_length=st.sampled_from([None, 32, 128])),
    min_size=1,
    max_size=4,
)
ramps = st.none() | st.fixed_dictionaries(
    {"start": st.integers(1, 8), "increment": st.integers(1, 4), "tokens": st.integers(1, 5000)}
)


@given(phases=phases, ramp=ramps)
@settings(deadline=None)
def test_steps_follow_each_other_in_samples_and_tokens(phases: list[dict[str, Any]], ramp: dict[str, int]) -> None:
    plan = Plan(MODEL, pretrain(phases={f"p{i}": phase for i, phase in enumerate(phases)}, batch_ramp=ramp))
    tokens, samples = 0, [0] * len(phases)
    for number in range(1, plan.steps + 1):
        step = plan.at(number)
        of = plan.phases[step.phase]
        assert of.first_step <= number <= of.last_step
        assert step.first_sample == samples[step.phase]
        samples[step.phase] += step.global_batch_size
        tokens += step.global_batch_size * of.seq_length
        assert step.tokens == tokens
    assert tokens == plan.tokens
    assert [of.samples for of in plan.phases] == samples
    assert plan.phases[-1].last_step == plan.steps


@given(phases=phases)
@settings(deadline=None)
def test_a_phase_ends_with_the_step_that_reaches_its_tokens(phases: list[dict[str, Any]]) -> None:
    plan = Plan(MODEL, pretrain(phases={f"p{i}": phase for i, phase in enumerate(phases)}))
    for asked, of in zip(phases, plan.phases, strict=True):
        got, one_step = of.samples * of.seq_length, asked["global_batch_size"] * of.seq_length
        assert 0 <= got - asked["tokens"] < one_step


def test_a_ramp_grows_in_equal_increments_over_its_tokens() -> None:
    ramp = {"start": 2, "increment": 2, "tokens": 64 * 60}
    plan = Plan(MODEL, pretrain(phases={"main": phase(64 * 200, 8)}, batch_ramp=ramp))
    sizes = [plan.at(number).global_batch_size for number in range(1, plan.steps + 1)]
    assert sizes == [2] * 10 + [4] * 5 + [6] * 3 + [8] * (plan.steps - 18)
    assert plan.at(18).tokens == pytest.approx(ramp["tokens"], rel=0.05)


def test_a_longer_run_begins_as_the_shorter_one() -> None:
    short, long = (Plan(MODEL, pretrain(phases={"main": phase(tokens, 4)})) for tokens in (5000, 9000))
    assert [short.at(number) for number in range(1, short.steps + 1)] == [
        long.at(number) for number in range(1, short.steps + 1)
    ]


@given(phases=phases)
@settings(deadline=None)
def test_targets_make_the_plan_of_their_sum_and_shares(phases: list[dict[str, Any]]) -> None:
    shares, targets = {}, {}
    for index, of in enumerate(phases):
        code = of["tokens"]
        shares[f"p{index}"] = {**of, "tokens": 4 * code, "blend": {"code": 0.25, "prose": 0.75}}
        without = {name: value for name, value in of.items() if name not in ("tokens", "blend")}
        targets[f"p{index}"] = {**without, "targets": {"code": code, "prose": 3 * code}}
    one, other = Plan(MODEL, pretrain(phases=shares)), Plan(MODEL, pretrain(phases=targets))
    assert one.phases == other.phases
    assert one.tokens_by_domain() == other.tokens_by_domain()


CAPPED = {"main": phase(6400, 4), "anneal": phase(640, 4, blend={"code": 0.5, "prose": 0.5})}


@pytest.mark.parametrize("caps", [{}, {"default": 2.1}, {"default": 0.1, "domains": {"code": None, "prose": 1}}])
def test_a_run_within_the_caps_of_its_domains_is_let_pass(caps: dict[str, Any]) -> None:
    check_epochs(MODEL, pretrain(phases=CAPPED, max_epochs=caps), {"code": 3200 + 192, "prose": 384})


@pytest.mark.parametrize(
    ("caps", "message"),
    [
        ({"default": 2}, "on 6,784 tokens of 'code', 2.12 times the 3,200 in its shard, .* caps that at 2; lower"),
        ({"domains": {"prose": 0.9}}, "on 384 tokens of 'prose', 1.00 times the 384 in its shard, .* at 0.9;"),
        ({"default": 0.5}, "'code', .* at 0.5; the phases train on 384 tokens of 'prose'"),
    ],
)
def test_a_run_that_repeats_a_domain_over_all_phases_more_than_its_cap_is_refused(
    caps: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        check_epochs(MODEL, pretrain(phases=CAPPED, max_epochs=caps), {"code": 3200, "prose": 384})


def test_a_small_share_of_many_phases_counts_in_whole_samples() -> None:
    blend = {"code": 0.99, "prose": 0.01}
    many = pretrain(phases={f"p{number}": phase(256, 1, blend=blend) for number in range(6)}, max_epochs={"default": 1})
    assert Plan(MODEL, many).tokens_by_domain()["prose"] == 6 * MODEL.seq_length
    with pytest.raises(UserError, match=f"on {6 * MODEL.seq_length} tokens of 'prose'"):
        check_epochs(MODEL, many, {"code": 10**6, "prose": 6 * MODEL.seq_length - 1})


def test_the_final_model_has_the_longest_context_and_the_last_rotary_base() -> None:
    more = {"main": phase(640, 2), "long": phase(640, 1, seq_length=256, rotary_base=1e6), "end": phase(64, 1)}
    model = final_model(MODEL, pretrain(phases=more, micro_batch_size=1))
    assert (model.seq_length, model.rotary_base) == (256, 1e6)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"layout": {"tensor_model_parallel_size": 3}}, r"num_attention_heads = 4 is not divisible by .* = 3"),
        ({"layout": {"pipeline_model_parallel_size": 4}}, r"num_layers = 2 is not divisible by .* = 4"),
        ({"layout": {"virtual_pipeline_model_parallel_size": 2}}, "interleaves pipeline stages, of which there is one"),
        ({"layout": {"sequence_parallel": True}}, "sequence_parallel splits the sequence over tensor-parallel"),
        ({"layout": {"expert_model_parallel_size": 2}}, "expert_model_parallel_size = 2, but the model has no experts"),
        ({"layout": {"context_parallel_size": 3}}, r"seq_length 64 is not divisible by 2 \* .* = 6"),
        ({"layout": {"data_parallel_size": 3}}, r"global_batch_size 4 is not divisible by .* = 6"),
        ({"precision": "fp8"}, "fp8 needs a GPU and Transformer Engine"),
        (
            {"optimizer": {"kind": "muon", "weight_decay": 0.1}, "layout": {"distributed_optimizer": True}},
            "muon needs whole matrices, which layout.distributed_optimizer cuts up",
        ),
        ({"batch_ramp": {"start": 4, "increment": 1, "tokens": 10}}, r"batch_ramp\.start = 4 is not below"),
        ({"max_epochs": {"domains": {"cod": 2}}}, r"max_epochs\.domains names \['cod'\], which no phase trains on"),
        (
            {"schedule": {**PARAMS["pretrain"]["schedule"], "warmup_steps": 12}},
            "warmup_steps 12 and decay_steps 0 must be below the 12 steps",
        ),
    ],
)
def test_a_run_that_cannot_be_is_refused_with_the_reason(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        check(MODEL, pretrain(**changes))


def test_released_steps_are_powers_of_two_and_then_multiples() -> None:
    released = ReleasedSettings(powers_until=16, every=40)
    assert [step for step in range(100) if step in released] == [0, 1, 2, 4, 8, 16, 40, 80]
