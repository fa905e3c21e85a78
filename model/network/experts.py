"""How evenly a mixture of experts is used."""

import torch
import torch.distributed as dist

from model import megatron

megatron.install()

from megatron.core.transformer.moe.moe_utils import (  # noqa: E402 - after install
    clear_aux_losses_tracker,
    get_moe_layer_wise_logging_tracker,
)

from model import parallel  # noqa: E402


def balance_loss(num_layers: int, micro_batches: int, device: torch.device) -> float:
    """Return the balancing loss of the passes since the last call, the same on every rank; every rank calls this.

    It is the mean over layers and micro batches, without its coefficient (Fedus et al. 2021, Switch Transformer,
    equation 4): 1 if every expert gets as many tokens, and the number of experts if one gets all.

    Args:
        num_layers: Of the model, each with experts.
        micro_batches: Of this replica since the last call.
        device: This process's.
    """
    tracked = get_moe_layer_wise_logging_tracker().get("load_balancing_loss")
    total = tracked["values"].double().sum() if tracked else torch.zeros((), dtype=torch.float64, device=device)
    clear_aux_losses_tracker()
    dist.all_reduce(total)  # each rank has its own layers, and its own tokens' share of their losses
    return total.item() / (num_layers * micro_batches * parallel.data_parallel_size())
