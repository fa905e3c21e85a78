"""What a model is, how it is laid out over processes, and how it is trained. Imports no torch."""

import math
from typing import Literal, Self

from pydantic import Field, field_validator, model_validator

from stages.errors import UserError
from stages.settings import Settings


class ModelSettings(Settings):
    """A Llama decoder: RMSNorm, rotary positions, grouped-query attention, SwiGLU (Touvron et al. 2023)."""

    num_layers: int = Field(gt=0)
    """Transformer layers."""
    hidden_size: int = Field(gt=0)
    """Width of the residual stream."""
    ffn_hidden_size: int = Field(gt=0)
    """Width of the gated MLP."""
    num_attention_heads: int = Field(gt=0)
    """Query heads; each is hidden_size / num_attention_heads wide."""
    num_query_groups: int = Field(gt=0)
    """Key and value heads, shared by equal groups of query heads (Ainslie et al. 2023)."""
    seq_length: int = Field(gt=1)
    """Tokens in one training sequence, and the longest context of the exported model."""
    rotary_base: float = Field(default=10000.0, gt=0)
    """Base of the rotary frequencies (`rope_theta`)."""
    layernorm_epsilon: float = Field(default=1e-5, gt=0)
    """Added to the mean square in RMSNorm."""
    share_embeddings_and_output_weights: bool = False
    """Whether the output projection is the embedding table."""
    init_method_std: float = Field(default=0.02, gt=0)
    """Standard deviation of initial weights; projections back into the residual are divided by sqrt(2 * num_layers)."""
    make_vocab_size_divisible_by: int = Field(default=128, gt=0)
    """The embedding table is padded to this multiple, whatever the layout, so that every layout has the same table."""

    @model_validator(mode="after")
    def _heads_divide(self) -> Self:
        if self.hidden_size % self.num_attention_heads:
            raise ValueError(
                f"hidden_size {self.hidden_size} is not divisible by num_attention_heads {self.num_attention_heads}; "
                "choose a multiple"
            )
        if (self.hidden_size // self.num_attention_heads) % 2:
            raise ValueError("the width of a head must be even for rotary positions; change num_attention_heads")
        if self.num_attention_heads % self.num_query_groups:
            raise ValueError(
                f"num_attention_heads {self.num_attention_heads} is not divisible by num_query_groups "
                f"{self.num_query_groups}; choose a divisor"
            )
        return self

    def padded_vocab_size(self, vocab_size: int) -> int:
        """Return the number of rows of the embedding table for a tokenizer of `vocab_size` ids."""
        multiple = self.make_vocab_size_divisible_by
        return math.ceil(vocab_size / multiple) * multiple

    def num_parameters(self, vocab_size: int) -> int:
        """Return the number of weights of the exported model (no vocabulary padding)."""
        head = self.hidden_size // self.num_attention_heads
        attention = self.hidden_size * head * (2 * self.num_attention_heads + 2 * self.num_query_groups)
        layer = attention + 3 * self.hidden_size * self.ffn_hidden_size + 2 * self.hidden_size
        tables = vocab_size * self.hidden_size * (1 if self.share_embeddings_and_output_weights else 2)
        return self.num_layers * layer + tables + self.hidden_size


class LayoutSettings(Settings):
    """How the model and the batch are split over processes."""

    tensor_model_parallel_size: int = Field(default=1, gt=0)
    """Processes that share every matrix (Shoeybi et al. 2019)."""
    data_parallel_size: int = Field(default=1, gt=0)
    """Replicas that share every batch."""

    @property
    def world_size(self) -> int:
        """Number of processes."""
        return self.tensor_model_parallel_size * self.data_parallel_size


class OptimizerSettings(Settings):
    """AdamW (Loshchilov & Hutter 2019) with warm-up, decay and clipping of the global gradient norm."""

    learning_rate: float = Field(gt=0)
    """Peak, reached at the end of warm-up."""
    min_learning_rate: float = Field(ge=0)
    """Floor, reached at the last step."""
    warmup_steps: int = Field(ge=0)
    """Steps of linear warm-up."""
    decay_style: Literal["cosine", "linear", "constant"]
    """Shape of the decay after warm-up."""
    weight_decay: float = Field(ge=0)
    """Decay of matrices; norms are not decayed."""
    adam_beta1: float = Field(default=0.9, ge=0, lt=1)
    """Decay of the first moment."""
    adam_beta2: float = Field(default=0.95, ge=0, lt=1)
    """Decay of the second moment."""
    adam_eps: float = Field(default=1e-8, gt=0)
    """Added to the square root of the second moment."""
    clip_grad: float = Field(default=1.0, gt=0)
    """Largest global gradient norm."""

    @model_validator(mode="after")
    def _floor_below_peak(self) -> Self:
        if self.min_learning_rate > self.learning_rate:
            raise ValueError(
                f"min_learning_rate {self.min_learning_rate} is above learning_rate {self.learning_rate}; lower it"
            )
        return self


class PretrainSettings(Settings):
    """One pretraining run."""

    device: Literal["cpu", "cuda"]
    """Where it runs: gloo on `cpu`, nccl on `cuda`."""
    precision: Literal["float32", "bf16"]
    """Arithmetic of the model; bf16 keeps float32 master weights and reduces gradients in float32."""
    num_threads: int = Field(gt=0)
    """CPU threads of one process; float sums depend on it, so it is not taken from the machine."""
    layout: LayoutSettings = LayoutSettings()
    """How the model is split over processes."""
    weight_seed: int = Field(ge=0)
    """Seed of the initial weights."""
    data_seed: int = Field(ge=0)
    """Seed of the order of the data."""
    blend: dict[str, float]
    """Share of the training tokens by domain; sums to 1."""
    steps: int = Field(gt=0)
    """Optimizer steps."""
    global_batch_size: int = Field(gt=0)
    """Sequences in one step, over all replicas."""
    micro_batch_size: int = Field(gt=0)
    """Sequences in one forward pass of one replica."""
    optimizer: OptimizerSettings
    """How the weights move."""
    eval_interval: int = Field(gt=0)
    """Steps between two measurements on the validation split; the last step is always measured."""
    eval_sequences: int = Field(gt=0)
    """Validation sequences of each domain, from its start."""
    checkpoint_interval: int = Field(gt=0)
    """Steps between two rolling checkpoints: what an interrupted run loses at most."""

    @field_validator("blend")
    @classmethod
    def _blend_sums_to_one(cls, blend: dict[str, float]) -> dict[str, float]:
        bad = {domain: share for domain, share in blend.items() if share <= 0}
        if bad:
            raise ValueError(f"shares must be positive; remove or raise {bad}")
        if not math.isclose(sum(blend.values()), 1, abs_tol=1e-6):
            raise ValueError(f"the shares sum to {sum(blend.values()):.6g}; make them sum to 1")
        return blend

    @model_validator(mode="after")
    def _batches_divide(self) -> Self:
        one_pass = self.micro_batch_size * self.layout.data_parallel_size
        if self.global_batch_size % one_pass:
            raise ValueError(
                f"global_batch_size {self.global_batch_size} is not divisible by micro_batch_size * "
                f"data_parallel_size = {one_pass}; choose a multiple"
            )
        if self.optimizer.warmup_steps >= self.steps:
            raise ValueError(
                f"optimizer.warmup_steps {self.optimizer.warmup_steps} must be below steps {self.steps}; shorten it"
            )
        return self

    @property
    def num_microbatches(self) -> int:
        """Forward passes of one replica in one step."""
        return self.global_batch_size // (self.micro_batch_size * self.layout.data_parallel_size)


def check_layout(model: ModelSettings, pretrain: PretrainSettings) -> None:
    """Refuse a model that the layout cannot split.

    Raises:
        UserError: A dimension is not divisible by the tensor-parallel size.
    """
    size = pretrain.layout.tensor_model_parallel_size
    for name in ("num_attention_heads", "num_query_groups", "ffn_hidden_size", "make_vocab_size_divisible_by"):
        value = getattr(model, name)
        if value % size:
            raise UserError(
                f"params.yaml: model.{name} = {value} is not divisible by "
                f"pretrain.layout.tensor_model_parallel_size = {size}; change one of them"
            )
