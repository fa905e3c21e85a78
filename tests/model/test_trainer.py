"""One process; other layouts are compared with it in test_layouts.py."""

import gc
import weakref
from dataclasses import replace
from typing import Any

import pytest
import torch

from model.data.batches import Batch
from model.job import Job
from model.network.accelerated import implementation
from model.trainer import Gradients, Trainer
from stages.errors import UserError
from tests.model import layouts
from tests.model.layouts import SEQ_LENGTH, batch, job, training


def gradients(trainer: Trainer, job: Job, number: int = 1) -> Gradients:
    step = job.plan.at(number)
    return trainer.gradients(layouts.micro_batches(job, step), step)


def weights(trainer: Trainer) -> list[torch.Tensor]:
    return [weight.detach().clone() for weight in trainer.modules[0].parameters()]


def test_the_number_of_micro_batches_changes_no_loss_and_no_gradient() -> None:
    found = []
    for size in (1, 4):
        one = job(micro_batch_size=size)
        with training(one) as trainer:
            found.append(gradients(trainer, one))
    assert found[0].loss == pytest.approx(found[1].loss, abs=1e-6)
    assert found[0].grad_norm == pytest.approx(found[1].grad_norm, rel=1e-5)


def test_a_step_has_the_size_that_the_plan_says() -> None:
    one = job(micro_batch_size=1)
    with training(one) as trainer:
        for size in (2, 4):
            step = replace(one.plan.at(1), global_batch_size=size)
            found = trainer.gradients(layouts.micro_batches(one, step), step)
            tokens, labels, positions, _ = batch(0, size)
            assert found.loss == pytest.approx(
                trainer.modules[0](tokens, positions, None, labels=labels)[0].mean().item()
            )


def test_a_discarded_gradient_leaves_no_trace() -> None:
    one = job()
    with training(one) as trainer:
        before = weights(trainer)
        first = gradients(trainer, one)
        trainer.discard()
        assert all(map(torch.equal, weights(trainer), before))
        assert gradients(trainer, one) == first


def test_loaded_weights_begin_anew() -> None:
    one = job(dropout=0.1, averaging={"decay": 0.5})
    with training(one) as trainer:
        start = {name: value.clone() for name, value in trainer.modules[0].state_dict().items() if value is not None}
        first = layouts.train(trainer, one, range(1, 4))
        assert layouts.train(trainer, one, range(1, 4)) != first
        trainer.load_weights({"model": start})
        assert layouts.train(trainer, one, range(1, 4)) == first
        averaged = trainer.averaged_weights_state_dict()["model"]
    with training(one) as trainer:
        layouts.train(trainer, one, range(1, 4))
        for name, part in trainer.averaged_weights_state_dict()["model"].items():
            if isinstance(part.data, torch.Tensor):
                assert torch.equal(part.data, averaged[name].data)


def test_the_z_loss_is_its_weight_times_the_squared_log_of_the_denominator() -> None:
    one = job(z_loss=0.5, micro_batch_size=4)
    with training(one) as trainer:
        tokens, _, positions, _ = batch(0, 4)
        with torch.no_grad():
            logits = trainer.modules[0](tokens, positions, None)[..., : one.shards.vocab_size]
        found = gradients(trainer, one)
        assert found.z_loss == pytest.approx(0.5 * logits.logsumexp(-1).square().mean().item(), rel=1e-5)
    without = job(micro_batch_size=4)
    with training(without) as trainer:
        plain = gradients(trainer, without)
    assert plain.loss == pytest.approx(found.loss, abs=1e-6)
    assert found.grad_norm > 1.1 * plain.grad_norm


def test_a_phase_brings_its_length_and_its_rotary_base() -> None:
    one = job(micro_batch_size=4)
    longer = replace(one.plan.phases[0], seq_length=2 * SEQ_LENGTH, rotary_base=500000.0)
    step = one.plan.at(1)
    with training(one) as trainer:
        trainer.set_phase(longer)
        found = trainer.gradients([batch(0, 4, 2 * SEQ_LENGTH)], step)
        short = next(trainer.token_scores([batch(0, 4)]))[1]
        trainer.set_phase(one.plan.phases[0])
        again = next(trainer.token_scores([batch(0, 4)]))[1]
    values = one.model_dump()
    values["model"]["rotary_base"] = 500000.0
    with training(Job.model_validate(values)) as trainer:
        tokens, labels, positions, _ = batch(0, 4, 2 * SEQ_LENGTH)
        expected = trainer.modules[0](tokens, positions, None, labels=labels)[0]
        assert found.loss == pytest.approx(expected.mean().item(), abs=1e-6)
        torch.testing.assert_close(next(trainer.token_scores([batch(0, 4)]))[1], short)
    assert not torch.allclose(short, again)


def test_a_document_that_is_masked_off_trains_as_if_it_stood_alone() -> None:
    one = job(micro_batch_size=1)
    whole, cut = batch(0, 1), 12
    mask = torch.ones(SEQ_LENGTH, SEQ_LENGTH, dtype=torch.bool).tril()
    mask[cut:, :cut] = False
    masked = Batch(whole.tokens, whole.labels, whole.positions, mask[None, None])
    second = Batch(whole.tokens[:, cut:], whole.labels[:, cut:], whole.positions[:, cut:], None)
    with training(one) as trainer:
        (_, together, _), (_, alone, _) = trainer.token_scores([masked, second])
        unmasked = next(trainer.token_scores([whole]))[1]
    torch.testing.assert_close(together[:, cut:], alone)
    torch.testing.assert_close(together[:, :cut], unmasked[:, :cut])
    assert not torch.allclose(together[:, cut:], unmasked[:, cut:], atol=1e-4)


def test_bf16_keeps_master_weights_and_follows_float32() -> None:
    curves = []
    for precision in ("float32", "bf16"):
        one = job(precision=precision)
        with training(one) as trainer:
            curves.append([loss for loss, *_ in layouts.train(trainer, one, range(1, 11))])
            held = {weight.dtype for group in trainer.optimizer.param_groups for weight in group["params"]}
            assert held == {torch.float32}
    assert curves[1] == pytest.approx(curves[0], abs=0.05)
    assert curves[1] != curves[0]


def test_the_average_is_saved_under_the_names_of_the_weights() -> None:
    one = job(averaging={"decay": 0.5})
    with training(one) as trainer:
        layouts.train(trainer, one, range(1, 3))
        plain, averaged = trainer.weights_state_dict()["model"], trainer.averaged_weights_state_dict()["model"]
        assert plain.keys() == averaged.keys()
        name = "embedding.word_embeddings.weight"
        assert plain[name].key == averaged[name].key
        assert not torch.equal(plain[name].data, averaged[name].data)


@pytest.mark.parametrize(
    "model", [{"moe": True}, {"family": layouts.DEEPSEEK, "layers": 3}], ids=["all layers", "some"]
)
def test_balance_is_one_when_every_expert_gets_as_much(model: dict[str, Any]) -> None:
    one = job(**model)
    with training(one) as trainer:
        found = gradients(trainer, one).balance_loss
        assert found is not None and 0.9 < found < 1.2
        for name, weight in trainer.modules[0].named_parameters():
            if "router" in name:
                weight.data.zero_()
        assert gradients(trainer, one).balance_loss == pytest.approx(1)


def test_further_tokens_weigh_what_the_settings_say() -> None:
    moe = {**layouts.DEEPSEEK["moe"], "aux_loss_coefficient": 0.0}
    found = {}
    for factor in (0.3, 0.6):
        model = {**layouts.DEEPSEEK, "moe": moe, "mtp_loss_scaling_factor": factor}
        one = job(family=model, micro_batch_size=4)
        with training(one) as trainer:
            seen = gradients(trainer, one)
            (chunk,) = trainer.modules
            weight = chunk.mtp.layers[0].eh_proj.weight
            found[factor] = weight.main_grad.clone()
            tokens, labels, positions, _ = batch(0, 4)
            further = chunk(tokens, positions, None, labels=labels)[2].mean()
        assert seen.further_loss == pytest.approx(further.item(), rel=1e-6)
    assert found[0.3].any()
    torch.testing.assert_close(found[0.6], 2 * found[0.3])


@pytest.mark.parametrize("moe", [False, True])
def test_a_model_ends_with_its_training(moe: bool) -> None:
    one = job(moe=moe)
    with training(one) as trainer:
        gradients(trainer, one)
        model = weakref.ref(trainer.modules[0])
    del trainer
    gc.collect()
    assert model() is None


def test_fp8_is_refused_without_transformer_engine() -> None:
    with pytest.raises(UserError, match='"fp8" needs Transformer Engine'), training(job(precision="fp8")):
        pass


def test_what_does_the_work_is_told() -> None:
    assert implementation("cpu")["optimizer"].endswith("FusedAdamW")
    assert set(implementation("cpu")) == {"linear", "attention", "optimizer", "gradient_accumulation"}


@pytest.mark.e2e
@pytest.mark.parametrize("moe", [False, True])
def test_compiled_layers_train_the_same_model_and_are_one_graph_each(moe: bool) -> None:
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    curves: list[Any] = []
    for compiled in (False, True):
        one = job(compile=compiled, moe=moe)
        with training(one) as trainer:
            curves.append(layouts.train(trainer, one, range(1, 6)))
    assert [loss for loss, *_ in curves[1]] == pytest.approx([loss for loss, *_ in curves[0]], abs=1e-5)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1
    assert not torch._dynamo.utils.counters["graph_break"]
