"""How a model is trained. What it is stands in `model/families/`. Imports no torch."""

import math
from typing import Annotated, Literal, Self

from pydantic import Field, PositiveInt, field_validator, model_validator

from model.guards import GuardSettings
from model.layout import LayoutSettings
from model.optim.schedule import ScheduleSettings
from stages.settings import Settings


class OptimizerSettings(Settings):
    """How a gradient becomes an update."""

    kind: Literal["adamw", "muon"] = "adamw"
    """AdamW (Loshchilov & Hutter 2019); or Muon (Jordan et al. 2024) for the layers' matrices, AdamW for the rest."""
    weight_decay: float = Field(ge=0)
    """Decay of matrices; norms and biases are not decayed."""
    adam_beta1: float = Field(default=0.9, ge=0, lt=1)
    """Decay of the first moment."""
    adam_beta2: float = Field(default=0.95, ge=0, lt=1)
    """Decay of the second moment."""
    adam_eps: float = Field(default=1e-8, gt=0)
    """Added to the square root of the second moment."""
    muon_momentum: float = Field(default=0.95, ge=0, lt=1)
    """Decay of Muon's momentum (Nesterov)."""
    clip_grad: float = Field(default=1.0, gt=0)
    """Largest global gradient norm."""


class PhaseSettings(Settings):
    """A stretch of training on one mixture: the main part, annealing on better data, long context.

    The mixture is a share of `tokens` for each domain (`blend`) or its number of tokens (`targets`).
    """

    tokens: int | None = Field(default=None, gt=0)
    """Tokens to train on; the phase ends with the step that reaches them. With `targets` it is their sum."""
    blend: dict[str, float] | None = None
    """Share of the phase's tokens by domain; sums to 1."""
    targets: dict[str, PositiveInt] | None = Field(default=None, min_length=1)
    """Tokens by domain, in place of `blend`."""
    global_batch_size: int = Field(gt=0)
    """Sequences in one step, over all replicas."""
    seq_length: int | None = Field(default=None, gt=1)
    """Tokens in one sequence; model.seq_length if null."""
    rotary_base: float | None = Field(default=None, gt=0)
    """Base of the rotary frequencies from here on (Xiong et al. 2023 raise it for longer context); null keeps it."""

    @field_validator("blend")
    @classmethod
    def _blend_sums_to_one(cls, blend: dict[str, float] | None) -> dict[str, float] | None:
        if blend is None:
            return None
        bad = {domain: share for domain, share in blend.items() if share <= 0}
        if bad:
            raise ValueError(f"shares must be positive; remove or raise {bad}")
        if not math.isclose(sum(blend.values()), 1, abs_tol=1e-6):
            raise ValueError(f"the shares sum to {sum(blend.values()):.6g}; make them sum to 1")
        return blend

    @model_validator(mode="after")
    def _mixture_is_told_once(self) -> Self:
        if (self.blend is None) == (self.targets is None):
            raise ValueError("give either blend, the share of each domain, or targets, its tokens")
        if self.targets is None and self.tokens is None:
            raise ValueError("tokens is missing, of which blend gives the shares; add it")
        if self.targets and self.tokens not in (None, self.total_tokens):
            raise ValueError(
                f"tokens = {self.tokens}, but the targets sum to {self.total_tokens}; leave tokens out, or correct one"
            )
        return self

    @property
    def total_tokens(self) -> int:
        """Tokens to train on."""
        return sum(self.targets.values()) if self.targets else self.tokens or 0

    @property
    def shares(self) -> dict[str, float]:
        """Share of the phase's tokens by domain."""
        targets = self.targets or {}
        return self.blend or {domain: tokens / self.total_tokens for domain, tokens in targets.items()}

    @property
    def tokens_by_domain(self) -> dict[str, int]:
        """What is asked of each domain, shares rounded to whole tokens."""
        return self.targets or {domain: round(share * self.total_tokens) for domain, share in self.shares.items()}


class MaxEpochs(Settings):
    """How often a run may see the tokens of a domain, over all its phases.

    Muennighoff et al. 2023 (arXiv:2305.16264) find that up to 4 epochs are nearly as good as new text.
    """

    default: float | None = Field(default=None, gt=0)
    """Cap of each domain that `domains` does not name; null for none."""
    domains: dict[str, Annotated[float, Field(gt=0)] | None] = Field(default={})
    """Caps of single domains; null for none."""

    def of(self, domain: str) -> float | None:
        """Return the cap of a domain, or None."""
        return self.domains.get(domain, self.default)


class BatchRamp(Settings):
    """A batch size that grows to the first phase's in equal increments over its first tokens (Brown et al. 2020)."""

    start: int = Field(gt=0)
    """Sequences in the first step."""
    increment: int = Field(gt=0)
    """Sequences by which a step grows at a time."""
    tokens: int = Field(gt=0)
    """Tokens after which the batch is full."""


class FromHuggingFace(Settings):
    """Start from the weights of a `transformers` checkpoint of a supported architecture."""

    kind: Literal["huggingface"]
    """Says which start this is."""
    path: str
    """Its folder."""


class FromCheckpoint(Settings):
    """Branch off another run: take its weights, optimizer and place in the data from one of its checkpoints."""

    kind: Literal["checkpoint"]
    """Says which start this is."""
    path: str
    """The checkpoint's folder, `step-XXXXXXXX` of a run whose model, data and seed are these."""


class AveragingSettings(Settings):
    """An exponential moving average of the weights, kept beside them and saved with them."""

    decay: float = Field(gt=0, lt=1)
    """Share of the average that a step leaves."""


class ReleasedSettings(Settings):
    """Which checkpoints are results beside the last (Biderman et al. 2023: 0, 1, 2, 4, ... 512, then every 1000)."""

    powers_until: int = Field(ge=0)
    """Step 0 and every power of two up to this step."""
    every: int = Field(gt=0)
    """And every multiple of this step."""
    with_optimizer: bool = False
    """Whether they hold the optimizer too, so that another run can branch off, and not the weights alone."""

    def __contains__(self, step: object) -> bool:
        if not isinstance(step, int):
            return False
        power = step & (step - 1) == 0 and step <= self.powers_until
        return power or (step > 0 and step % self.every == 0)


class LiveTasks(Settings):
    """lm-eval tasks on the model while it trains."""

    tasks: list[str] = Field(min_length=1)
    """Names as lm-eval knows them."""
    include_path: str | None = None
    """A folder of task files of one's own."""
    limit: int = Field(gt=0)
    """Documents of each task."""
    interval: int = Field(gt=0)
    """Steps between two measurements."""


class PretrainSettings(Settings):
    """One pretraining run: everything that decides its bytes."""

    device: Literal["cpu", "cuda"]
    """Where it runs: gloo on `cpu`, nccl on `cuda`."""
    precision: Literal["float32", "bf16", "fp8"]
    """Arithmetic of the matrices; below float32, master weights and the reduction of gradients stay float32. fp8
    needs Transformer Engine."""
    num_threads: int = Field(gt=0)
    """CPU threads of one process; float sums depend on it, so it is not taken from the machine."""
    layout: LayoutSettings = LayoutSettings()
    """How the model is split over processes."""
    weight_seed: int = Field(ge=0)
    """Seed of the initial weights and of dropout."""
    data_seed: int = Field(ge=0)
    """Seed of the order of the data."""
    start: Annotated[FromHuggingFace | FromCheckpoint, Field(discriminator="kind")] | None = None
    """Where the run begins; null draws the weights."""
    phases: dict[str, PhaseSettings] = Field(min_length=1)
    """The phases by name, in their order."""
    max_epochs: MaxEpochs = MaxEpochs()
    """A run that would repeat a domain more often is refused before it starts."""
    micro_batch_size: int = Field(gt=0)
    """Sequences in one forward pass of one replica."""
    batch_ramp: BatchRamp | None = None
    """A smaller batch at first."""
    document_mask: bool = False
    """Whether attention stays within a document. Rotary positions are relative, so they need no reset."""
    dropout: float = Field(default=0.0, ge=0, lt=1)
    """Share of activations and attention weights dropped in training."""
    compile: bool = False
    """Whether each layer is compiled with torch.compile, which needs a C++ compiler on the machine."""
    z_loss: float = Field(default=0.0, ge=0)
    """Weight of the squared log of the softmax's denominator (Chowdhery et al. 2022 use 1e-4)."""
    schedule: ScheduleSettings
    """The learning rate."""
    optimizer: OptimizerSettings
    """How the weights move."""
    averaging: AveragingSettings | None = None
    """An average of the weights, or none."""
    guards: GuardSettings = GuardSettings()
    """What is done when training goes wrong."""
    eval_interval: int = Field(gt=0)
    """Steps between two measurements on the validation split; the last step is always measured."""
    eval_sequences: int = Field(gt=0)
    """Validation sequences of each domain, from its start."""
    eval_tasks: LiveTasks | None = None
    """lm-eval tasks on the live model."""
    checkpoint_interval: int = Field(gt=0)
    """Steps between two rolling checkpoints: what an interrupted run loses at most, and where a roll-back goes."""
    released: ReleasedSettings | None = None
    """Checkpoints that are results."""

    @property
    def domains(self) -> list[str]:
        """Every domain of any phase, sorted."""
        return sorted(set().union(*(phase.shares for phase in self.phases.values())))
