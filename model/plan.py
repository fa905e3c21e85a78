"""What each step of a run trains on: its phase, batch size and place in the data. Imports no torch.

A pure function of the settings, so that any step can be looked up without the steps before it.
"""

import bisect
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from model.families.family import ModelSettings
from model.layout import batch_refusals, length_refusals, refusals
from model.settings import PretrainSettings
from stages.errors import UserError


@dataclass(frozen=True)
class Phase:
    """A phase of a run, in steps and samples."""

    name: str
    """As in the settings."""
    blend: dict[str, float]
    """Shares by domain."""
    seq_length: int
    """Tokens of a sequence."""
    rotary_base: float
    """Base of the rotary frequencies."""
    first_step: int
    """Counted from 1."""
    last_step: int
    """Inclusive."""
    samples: int
    """Sequences of all its steps."""


@dataclass(frozen=True)
class Step:
    """What one step trains on."""

    number: int
    """Counted from 1."""
    phase: int
    """Index of its phase."""
    global_batch_size: int
    """Sequences."""
    first_sample: int
    """Sequences of its phase before it."""
    tokens: int
    """Tokens of the run up to its end."""


@dataclass(frozen=True)
class _Stretch:
    """Steps of one phase with one batch size."""

    phase: int
    first_step: int
    steps: int
    global_batch_size: int
    first_sample: int
    tokens_before: int


class Plan:
    """All steps of a run.

    Args:
        model: For the lengths and bases that phases leave out.
        pretrain: The phases and the ramp.
    """

    def __init__(self, model: ModelSettings, pretrain: PretrainSettings) -> None:
        self.phases: list[Phase] = []
        self._stretches: list[_Stretch] = []
        step, tokens = 1, 0
        rotary_base = model.rotary_base
        for index, (name, phase) in enumerate(pretrain.phases.items()):
            seq_length = phase.seq_length or model.seq_length
            rotary_base = phase.rotary_base or rotary_base
            first, samples = step, 0
            for size, count in _batches(pretrain, index, phase.global_batch_size, phase.total_tokens, seq_length):
                self._stretches.append(_Stretch(index, step, count, size, samples, tokens))
                step += count
                samples += count * size
                tokens += count * size * seq_length
            self.phases.append(Phase(name, phase.shares, seq_length, rotary_base, first, step - 1, samples))
        self.steps = step - 1
        """Steps of the run."""
        self.tokens = tokens
        """Tokens of the run."""

    def at(self, step: int) -> Step:
        """Return what a step, counted from 1, trains on."""
        assert 1 <= step <= self.steps
        stretch = self._stretches[bisect.bisect_right(self._stretches, step, key=lambda s: s.first_step) - 1]
        before = step - stretch.first_step
        size = stretch.global_batch_size
        seq_length = self.phases[stretch.phase].seq_length
        tokens = stretch.tokens_before + (before + 1) * size * seq_length
        return Step(step, stretch.phase, size, stretch.first_sample + before * size, tokens)

    def tokens_by_domain(self) -> dict[str, int]:
        """Return the tokens of each domain by the shares, in whole samples of each phase, as `Blend` draws them."""
        tokens: dict[str, int] = {}
        for phase in self.phases:
            for domain, share in phase.blend.items():
                samples = math.ceil(share * phase.samples - 1e-6)  # shares are rounded to binary fractions
                tokens[domain] = tokens.get(domain, 0) + samples * phase.seq_length
        return dict(sorted(tokens.items()))

    def batch_sizes(self) -> set[int]:
        """Return every global batch size of the run."""
        return {stretch.global_batch_size for stretch in self._stretches}


def _batches(
    pretrain: PretrainSettings, phase: int, full: int, tokens: int, seq_length: int
) -> Iterator[tuple[int, int]]:
    """Yield batch size and number of steps of each stretch of a phase."""
    ramp = pretrain.batch_ramp if phase == 0 else None
    left = tokens
    if ramp:
        sizes = range(ramp.start, full, ramp.increment)
        for size in sizes:
            steps = max(1, round(ramp.tokens / len(sizes) / (size * seq_length)))
            yield size, steps
            left -= steps * size * seq_length
    if left > 0:
        yield full, math.ceil(left / (full * seq_length))


def final_model(model: ModelSettings, pretrain: PretrainSettings) -> ModelSettings:
    """Return the model as its last phase leaves it: longest context and rotary base."""
    phases = Plan(model, pretrain).phases
    seq_length = max(phase.seq_length for phase in phases)
    return model.model_copy(update={"seq_length": seq_length, "rotary_base": phases[-1].rotary_base})


def check(model: ModelSettings, pretrain: PretrainSettings) -> None:
    """Refuse a run that cannot be, before any process starts.

    Raises:
        UserError: Each reason, with the value and the remedy.
    """
    faults = list(_faults(model, pretrain))
    if faults:
        raise UserError("params.yaml: " + "; ".join(faults))


def check_epochs(model: ModelSettings, pretrain: PretrainSettings, tokens: Mapping[str, int]) -> None:
    """Refuse a run that would see the tokens of a domain more often than `pretrain.max_epochs` allows.

    Args:
        model: For the plan.
        pretrain: The phases and the caps.
        tokens: In the training shard of each domain.

    Raises:
        UserError: Each domain, with the numbers and the remedies.
    """
    faults = []
    for domain, planned in Plan(model, pretrain).tokens_by_domain().items():
        cap, available = pretrain.max_epochs.of(domain), tokens[domain]
        if cap is not None and planned > cap * available:
            faults.append(
                f"the phases train on {planned:,} tokens of '{domain}', {planned / available:.2f} times the "
                f"{available:,} in its shard, and pretrain.max_epochs caps that at {cap:g}"
            )
    if faults:
        remedy = "lower the share or the tokens, raise the cap, or add data to the domain"
        raise UserError(f"params.yaml: {'; '.join(faults)}; {remedy}")


def _faults(model: ModelSettings, pretrain: PretrainSettings) -> Iterator[str]:
    if model.conversion_only:
        yield f"model.family = {model.family} cannot be trained here: {model.conversion_only}"
    layout = pretrain.layout
    experts = model.experts.num_experts if model.experts else None
    yield from refusals(layout, {**model.split_sizes(), "num_layers": model.num_layers}, experts)
    plan = Plan(model, pretrain)
    for seq_length in sorted({phase.seq_length for phase in plan.phases}):
        yield from length_refusals(layout, seq_length)
    for size in sorted(plan.batch_sizes()):
        yield from batch_refusals(layout, pretrain.micro_batch_size, size)
    schedule = pretrain.schedule
    if schedule.warmup_steps + schedule.decay_steps >= plan.steps:
        yield (
            f"pretrain.schedule: warmup_steps {schedule.warmup_steps} and decay_steps {schedule.decay_steps} must be "
            f"below the {plan.steps} steps of the phases; shorten them"
        )
    if unknown := sorted(set(pretrain.max_epochs.domains) - set(pretrain.domains)):
        yield f"pretrain.max_epochs.domains names {unknown}, which no phase trains on; remove or correct them"
    ramp = pretrain.batch_ramp
    if ramp and ramp.start >= next(iter(pretrain.phases.values())).global_batch_size:
        yield f"pretrain.batch_ramp.start = {ramp.start} is not below the first phase's global_batch_size; lower it"
    if pretrain.optimizer.kind == "muon" and layout.distributed_optimizer:
        yield (
            "pretrain.optimizer.kind = muon needs whole matrices, which layout.distributed_optimizer cuts up; "
            "set one of them otherwise"
        )
    if pretrain.precision == "fp8":
        yield from _fp8_faults(model, pretrain, plan)


def _fp8_faults(model: ModelSettings, pretrain: PretrainSettings, plan: Plan) -> Iterator[str]:
    """Yield why Transformer Engine would refuse an fp8 product: both of its widths must be multiples of 16."""
    if pretrain.device != "cuda":
        yield "pretrain.precision = fp8 needs a GPU and Transformer Engine; choose bf16 or float32"
    tensor = 1 if model.experts else pretrain.layout.tensor_model_parallel_size
    head = model.head_dim
    attention = pretrain.layout.tensor_model_parallel_size
    widths = {
        "model.hidden_size": model.hidden_size,
        "the ffn_hidden_size of a process": model.ffn_hidden_size // tensor,
        "the width of a process's queries": model.num_attention_heads * head // attention,
        "the width of a process's keys and values": 2 * model.num_query_groups * head // attention,
    }
    for phase in plan.phases:
        tokens = pretrain.micro_batch_size * phase.seq_length // pretrain.layout.context_parallel_size
        widths[f"the tokens of a micro batch of phase {phase.name}"] = tokens
    for name, width in widths.items():
        if width % 16:
            yield f"pretrain.precision = fp8 needs multiples of 16, and {name} is {width}; change it or choose bf16"
