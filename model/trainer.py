"""One training step and the scores of validation text, on this rank's part of the model."""

import itertools
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from model import megatron

megatron.install()

from megatron.core.distributed import (  # noqa: E402 - after install
    DistributedDataParallel,
    DistributedDataParallelConfig,
    finalize_model_grads,
)
from megatron.core.pipeline_parallel.schedules import get_forward_backward_func  # noqa: E402
from megatron.core.transformer.module import Float16Module  # noqa: E402

from model import parallel  # noqa: E402
from model.checkpoints import random_states  # noqa: E402
from model.data.batches import Batch  # noqa: E402
from model.job import Job  # noqa: E402
from model.network import experts, zigzag  # noqa: E402
from model.network.build import build_chunks, set_rotary_base  # noqa: E402
from model.network.loss import token_scores  # noqa: E402
from model.optim import optimizer, optimizer_state  # noqa: E402
from model.optim.averaging import WeightAverage  # noqa: E402
from model.plan import Phase, Step  # noqa: E402
from model.scoring import Scores, evened, rounds, shared, unpadded  # noqa: E402


@dataclass(frozen=True)
class Gradients:
    """What a step's forward and backward passes found; the same on every rank."""

    loss: float
    """Cross entropy in nats per token, the mean over the global batch."""
    z_loss: float
    """What the z-loss adds to it."""
    grad_norm: float
    """Norm of the whole gradient, before clipping."""
    grad_norms: dict[str, float]
    """Norms of the gradients of the model's parts."""
    balance_loss: float | None
    """How unevenly a mixture's experts are used (`model.network.experts`); None without experts."""
    further_loss: float | None
    """Cross entropy of the tokens after the next (multi-token prediction), the mean over them; None if not trained."""


class Trainer:
    """A model with its gradients and optimizer, in the layout of the process groups.

    Args:
        job: The model's shape and how it is trained.
        device: This process's device.
    """

    def __init__(self, job: Job, device: torch.device) -> None:
        self._settings = settings = job.pretrain
        self._vocab_size = job.shards.vocab_size
        self._expert_layers = job.model.num_expert_layers
        self.device = device
        self.modules = build_chunks(job.model, settings, self._vocab_size)
        """This rank's runs of layers, first to last."""
        for chunk in self.modules:
            chunk.z_loss = settings.z_loss
        self.ddp = [self._wrap(chunk, index) for index, chunk in enumerate(self.modules)]
        """The same, with buffers for their gradients."""
        self._config = self.modules[0].config
        self._forward_backward: Callable[..., list[Any]] = get_forward_backward_func()
        self.optimizer = optimizer.build_optimizer(settings, self.ddp)
        self._config.finalize_model_grads_func = finalize_model_grads
        self._config.moe_router_enable_expert_bias = False  # no change of the biases before the step is taken
        self._config.grad_scale_func = self.optimizer.scale_loss
        self.set_phase(job.plan.phases[0])
        self._begin()

    def _begin(self) -> None:
        averaging = self._settings.averaging
        self.average = WeightAverage(list(self.modules), averaging.decay) if averaging else None
        parallel.seed_training(self._settings.weight_seed)

    def _wrap(self, chunk: Any, index: int) -> DistributedDataParallel:
        half = self._settings.precision != "float32"
        config = DistributedDataParallelConfig(
            grad_reduce_in_fp32=half, use_distributed_optimizer=self._settings.layout.distributed_optimizer
        )
        module = Float16Module(chunk.config, chunk) if half else chunk
        return DistributedDataParallel(chunk.config, config, module, disable_bucketing=index > 0)

    def set_phase(self, phase: Phase) -> None:
        """Train on this phase's sequence length and rotary base from here on."""
        self._seq_length = phase.seq_length
        for chunk in self.modules:
            set_rotary_base(chunk, phase.rotary_base)

    def gradients(self, batches: Iterable[Batch], step: Step) -> Gradients:
        """Compute the gradient of a step and leave the weights as they are.

        Args:
            batches: This replica's micro batches of the step.
            step: Its global batch size.
        """
        for chunk in self.ddp:
            chunk.zero_grad_buffer()
        self.optimizer.zero_grad()
        experts.forget_choices(self.modules)
        micro_batches = step.global_batch_size // (self._settings.micro_batch_size * parallel.data_parallel_size())
        shape = (self._settings.micro_batch_size, self._seq_length)
        parts = self._run(batches, self._loss_step, micro_batches, shape)
        experts.forget_graph(self.modules)
        loss, z_loss, *further = self._mean(parts).tolist()
        self.optimizer.prepare_grads()
        self._grad_norm, grad_norms = optimizer.gradient_norms(self.optimizer)
        balance = None
        if self._expert_layers:
            balance = experts.balance_loss(self._expert_layers, micro_batches, self.device)
        further_loss = sum(further) / len(further) if further else None
        return Gradients(loss, self._settings.z_loss * z_loss, self._grad_norm, grad_norms, balance, further_loss)

    def update(self, rate: float) -> None:
        """Move the weights along the gradient, clipped, with this learning rate."""
        optimizer.apply(self.optimizer, self._settings, rate, self._grad_norm)
        experts.move_biases(self.modules, self._config.moe_router_bias_update_rate)
        if self.average:
            self.average.update()

    def discard(self) -> None:
        """Forget the gradient; the weights stay."""
        self.optimizer.zero_grad()

    def _loss_step(self, batches: Iterator[Batch], chunk: Any) -> tuple[Tensor, Callable[[Tensor], Any]]:
        """Run a micro batch through a run of layers, for Megatron-Core's schedule."""
        tokens, labels, positions, mask = self._own_part(next(batches))
        return chunk(tokens, positions, mask, labels=labels), self._loss

    def _loss(self, losses: Tensor) -> tuple[Tensor, Tensor]:
        """Return what the schedule differentiates, and what it collects, from the losses of `Decoder`.

        The first is divided by the number of parts of a sequence, as the schedule multiplies by it.
        """
        parts = losses.mean(dim=(1, 2))
        total = parts[0] + self._settings.z_loss * parts[1]
        if self._config.mtp_num_layers:
            total = total + self._config.mtp_loss_scaling_factor * parts[2:].mean()  # DeepSeek-V3, equation 25
        return total / parallel.context_parallel_size(), parts.detach()

    def _mean(self, parts: list[Tensor]) -> Tensor:
        """Return the mean of each loss over micro batches, replicas and parts of the sequences."""
        zero = torch.zeros(2 + (self._config.mtp_num_layers or 0), dtype=torch.float64, device=self.device)
        return parallel.from_last_stage(
            parallel.mean_over_replicas(torch.stack(parts).double().mean(0) if parts else zero)
        )

    def _own_part(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
        """Return tokens, labels, positions and mask of this process's part of the sequences."""
        own = (parallel.context_parallel_rank(), parallel.context_parallel_size())
        tokens, labels, positions = (zigzag.cut(x, 1, *own) for x in (batch.tokens, batch.labels, batch.positions))
        mask = None if batch.attention_mask is None else zigzag.cut(batch.attention_mask, 2, *own)
        return tokens, labels, positions, mask

    @torch.no_grad()
    def token_scores(self, batches: Iterable[Batch]) -> Iterator[Scores]:
        """Yield labels, losses in nats and whether the label is the likeliest token, of each batch, on every rank.

        Every rank passes the same batches, of any shapes.
        """
        layout = self._settings.layout
        own = layout.pipeline_model_parallel_size
        size = own * layout.data_parallel_size
        chunks = 2 * layout.context_parallel_size if layout.context_parallel_size > 1 else 1
        multiple = chunks * layout.tensor_model_parallel_size
        for group in rounds(batches, size):
            even = evened(group, size, multiple)[own * parallel.data_parallel_rank() :][:own]
            b, s = even[0].tokens.shape
            for chunk in self.ddp:
                chunk.eval()
            scores = self._run(even, self._score_step, own, (b, s), forward_only=True, collect_non_loss_data=True)
            for chunk in self.ddp:
                chunk.train()
            yield from unpadded(group, shared(scores, (b, s), own, self.device))

    def _score_step(self, batches: Iterator[Batch], chunk: Any) -> tuple[Tensor, Callable[..., Tensor]]:
        tokens, labels, positions, mask = self._own_part(next(batches))

        def scores(logits: Tensor, non_loss_data: bool) -> Tensor:
            assert non_loss_data
            return torch.stack([x.float() for x in token_scores(logits, labels, self._vocab_size)])

        return chunk(tokens, positions, mask), scores

    def _run(
        self, batches: Iterable[Batch], step: Callable[..., Any], count: int, shape: tuple[int, int], **options: Any
    ) -> list[Any]:
        """Run `count` micro batches of a shape through the pipeline; return what the last stage collected of each."""
        chunks = len(self.ddp)
        iterators = itertools.tee(batches, chunks)  # every run of layers takes each batch in its own time
        return self._forward_backward(
            forward_step_func=step,
            data_iterator=list(iterators) if chunks > 1 else iterators[0],
            model=self.ddp if chunks > 1 else self.ddp[0],
            num_microbatches=count,
            micro_batch_size=shape[0],
            seq_length=shape[1],
            **{"forward_only": False, **options},
        )

    def weights_state_dict(self) -> dict[str, Any]:
        """Return this rank's weights for a checkpoint, under the names that they have in an unsplit model."""
        if len(self.modules) == 1:
            return {"model": self.modules[0].sharded_state_dict(metadata=optimizer_state.metadata())}
        return {
            f"model{i}": chunk.sharded_state_dict(metadata=optimizer_state.metadata())
            for i, chunk in enumerate(self.modules)
        }

    def load_weights(self, state: dict[str, Any]) -> None:
        """Take weights that were loaded into `weights_state_dict()`, and begin anew from them."""
        self._load_modules(state)
        optimizer_state.reset(self.optimizer)
        self._begin()

    def _load_modules(self, state: dict[str, Any]) -> None:
        for i, chunk in enumerate(self.modules):
            chunk.load_state_dict(state["model" if len(self.modules) == 1 else f"model{i}"], strict=True)

    def sharded_state_dict(self, is_loading: bool = False) -> dict[str, Any]:
        """Return this rank's part of a checkpoint: weights, optimizer, random states, average.

        Args:
            is_loading: Whether it is to be filled from a checkpoint.
        """
        state = self.weights_state_dict()
        weights = state["model"] if len(self.modules) == 1 else dict(state)
        state["optimizer"] = optimizer_state.sharded(self.optimizer, weights, is_loading)
        if self.average:
            state["average"] = self.average.sharded_state_dict(weights)
        state["random_states"] = random_states.sharded()
        return state

    def averaged_weights_state_dict(self) -> dict[str, Any]:
        """Return the average of the weights as `weights_state_dict` returns them."""
        assert self.average is not None
        return self.average.weights_state_dict(self.weights_state_dict())

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a checkpoint that was loaded into `sharded_state_dict(is_loading=True)`."""
        self._load_modules(state)
        optimizer_state.load(self.optimizer, state["optimizer"])
        if self.average and "average" in state:
            self.average.load(state["average"])
        if "random_states" in state:
            random_states.restore(state["random_states"])
