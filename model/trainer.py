"""One training step and one validation, on this rank's part of the model."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch

from model import megatron

megatron.install()

from megatron.core.distributed import (  # noqa: E402 - after install
    DistributedDataParallel,
    DistributedDataParallelConfig,
    finalize_model_grads,
)
from megatron.core.optimizer import OptimizerConfig, get_megatron_optimizer, get_standard_config_overrides  # noqa: E402
from megatron.core.optimizer_param_scheduler import OptimizerParamScheduler  # noqa: E402
from megatron.core.pipeline_parallel.schedules import get_forward_backward_func  # noqa: E402
from megatron.core.transformer.module import Float16Module  # noqa: E402

from model import parallel  # noqa: E402
from model.build import DTYPES, build_model  # noqa: E402
from model.data import Batch  # noqa: E402
from model.settings import ModelSettings, PretrainSettings  # noqa: E402


class Trainer:
    """A model with its gradients, optimizer and schedule, in the layout of the process groups.

    Args:
        model: The model's shape.
        settings: How it is trained.
        vocab_size: Ids of the tokenizer.
        device: This process's device.
    """

    def __init__(self, model: ModelSettings, settings: PretrainSettings, vocab_size: int, device: torch.device) -> None:
        self._settings = settings
        self._seq_length = model.seq_length
        self.device = device
        self.model = build_model(model, settings.layout, vocab_size, settings.precision).to(device)
        self.config = self.model.config
        half = settings.precision == "bf16"
        wrapped = Float16Module(self.config, self.model) if half else self.model
        self._ddp = DistributedDataParallel(
            self.config, DistributedDataParallelConfig(grad_reduce_in_fp32=half), wrapped
        )
        self._forward_backward: Callable[..., list[dict[str, torch.Tensor]]] = get_forward_backward_func()
        self.optimizer = _optimizer(settings, self._ddp)
        self.scheduler = _scheduler(settings, self.optimizer)
        self.config.finalize_model_grads_func = finalize_model_grads
        self.config.grad_scale_func = self.optimizer.scale_loss

    def weights_changed(self) -> None:
        """Tell the optimizer that weights were loaded without its own state."""
        self.optimizer.reload_model_params()

    @property
    def learning_rate(self) -> float:
        """The rate of the last step."""
        return float(self.optimizer.param_groups[0]["lr"])

    def step(self, batches: Iterator[Batch]) -> tuple[float, float]:
        """Take one optimizer step over this replica's micro batches.

        Returns:
            The mean loss in nats per token over the global batch, and the gradient norm before clipping.
        """
        self.scheduler.step(increment=1)  # before the update, so that the first step's rate is not zero
        self._ddp.zero_grad_buffer()
        self.optimizer.zero_grad()
        losses = self._forward_backward(
            forward_step_func=_forward_step,
            data_iterator=batches,
            model=self._ddp,
            num_microbatches=self._settings.num_microbatches,
            seq_length=self._seq_length,
            micro_batch_size=self._settings.micro_batch_size,
            forward_only=False,
        )
        _, grad_norm, _ = self.optimizer.step()
        loss = torch.stack([part["loss"] for part in losses]).double().mean()
        return parallel.mean_over_replicas(loss).item(), float(grad_norm)

    @torch.no_grad()
    def token_losses(self, batches: Iterable[Batch]) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Yield for each batch the labels and their losses in nats, both `[b, s]`."""
        self._ddp.eval()
        for tokens, labels, positions in batches:
            yield labels, self._ddp(tokens, positions, None, labels=labels).float()
        self._ddp.train()


def _forward_step(batches: Iterator[Batch], model: Any) -> tuple[torch.Tensor, Callable[[torch.Tensor], Any]]:
    """Return the losses `[b, s]` of the next micro batch, and what Megatron-Core's schedule makes of them."""
    tokens, labels, positions = next(batches)
    return model(tokens, positions, None, labels=labels), _mean_loss


def _mean_loss(losses: torch.Tensor) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    loss = losses.float().mean()
    return loss, {"loss": loss.detach().clone()}  # the schedule divides the first in place


def _optimizer(settings: PretrainSettings, model: DistributedDataParallel) -> Any:
    chosen = settings.optimizer
    config = OptimizerConfig(
        optimizer="adam",
        lr=chosen.learning_rate,
        min_lr=chosen.min_learning_rate,
        weight_decay=chosen.weight_decay,
        adam_beta1=chosen.adam_beta1,
        adam_beta2=chosen.adam_beta2,
        adam_eps=chosen.adam_eps,
        clip_grad=chosen.clip_grad,
        bf16=settings.precision == "bf16",
        params_dtype=DTYPES[settings.precision],
    )
    return get_megatron_optimizer(config, [model], config_overrides=get_standard_config_overrides(config))


def _scheduler(settings: PretrainSettings, optimizer: Any) -> OptimizerParamScheduler:
    chosen = settings.optimizer
    return OptimizerParamScheduler(
        optimizer,
        init_lr=0.0,
        max_lr=chosen.learning_rate,
        min_lr=chosen.min_learning_rate,
        lr_warmup_steps=chosen.warmup_steps,
        lr_decay_steps=settings.steps,
        lr_decay_style=chosen.decay_style,
        start_wd=chosen.weight_decay,
        end_wd=chosen.weight_decay,
        wd_incr_steps=0,
        wd_incr_style="constant",
    )
