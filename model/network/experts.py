"""How evenly a mixture of experts is used, and the biases of routers that even it out."""

from collections.abc import Iterable, Iterator
from typing import Any

import torch
import torch.distributed as dist

from model import megatron

megatron.install()

from megatron.core.transformer.moe.moe_layer import MoELayer  # noqa: E402 - after install
from megatron.core.transformer.moe.moe_utils import (  # noqa: E402
    get_moe_layer_wise_logging_tracker,
    get_updated_expert_bias,
)
from megatron.core.transformer.moe.router import TopKRouter  # noqa: E402

from model import parallel  # noqa: E402


def balance_loss(num_layers: int, micro_batches: int, device: torch.device) -> float:
    """Return the balancing loss of the passes since the last call, the same on every rank; every rank calls this.

    It is the mean over layers and micro batches, without its coefficient (Fedus et al. 2021, Switch Transformer,
    equation 4): 1 if every expert gets as many tokens, and the number of experts if one gets all.

    Args:
        num_layers: Of the model, those with experts.
        micro_batches: Of this replica since the last call.
        device: This process's.
    """
    total = torch.zeros((), dtype=torch.float64, device=device)
    kinds = get_moe_layer_wise_logging_tracker()  # one: over micro batches, or over sequences
    for tracked in kinds.values():
        total += tracked["values"].double().sum()
    kinds.clear()
    dist.all_reduce(total)  # each rank has its own layers, and its own tokens' share of their losses
    return total.item() / (num_layers * micro_batches * parallel.data_parallel_size())


def forget_choices(chunks: Iterable[torch.nn.Module]) -> None:
    """Let routers with a bias count anew how many tokens each expert gets.

    In float32, whatever the weights are in: bf16 counts to 256.
    """
    for router in _biased_routers(chunks):
        router.local_tokens_per_expert = torch.zeros_like(router.local_tokens_per_expert, dtype=torch.float32)


def forget_graph(chunks: Iterable[torch.nn.Module]) -> None:
    """Let go of what the dispatchers of tokens keep of the last pass.

    It holds that pass's autograd graph, whose hooks hold the model. No garbage collector sees such a cycle, so that a
    model would never end, nor the process groups that it has, whose threads spin.
    """
    layers = (module for chunk in chunks for module in chunk.modules() if isinstance(module, MoELayer))
    for kept in (vars(layer.token_dispatcher) for layer in layers):
        graph = [name for name, value in kept.items() if isinstance(value, torch.Tensor) and value.requires_grad]
        kept.update(dict.fromkeys(graph))


@torch.no_grad()
def move_biases(chunks: Iterable[torch.nn.Module], rate: float) -> None:
    """Raise the bias of experts with fewer tokens than the mean by `rate`, and lower that of those with more.

    Auxiliary-loss-free balancing (Wang et al. 2024, algorithm 1), over all tokens since the routers forgot. Megatron-
    Core would do so before it is known whether the step is taken. Every rank calls this.

    Args:
        chunks: This rank's runs of layers.
        rate: The change of a bias.
    """
    routers = list(_biased_routers(chunks))
    if routers:
        tokens = torch.stack([router.local_tokens_per_expert for router in routers])
        biases = torch.stack([router.expert_bias for router in routers])
        for router, moved in zip(routers, get_updated_expert_bias(tokens, biases, rate), strict=True):
            router.expert_bias.copy_(moved)


def _biased_routers(chunks: Iterable[torch.nn.Module]) -> Iterator[Any]:
    for chunk in chunks:
        yield from (
            module for module in chunk.modules() if isinstance(module, TopKRouter) and module.enable_expert_bias
        )
