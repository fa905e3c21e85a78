"""The layer against that of transformers' GPT-NeoX."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional
from transformers import GPTNeoXConfig
from transformers.models.gpt_neox.modeling_gpt_neox import GPTNeoXLayer

from model import megatron

megatron.install()

from megatron.core.models.gpt.gpt_layer_specs import get_gpt_layer_local_spec  # noqa: E402 - after install
from megatron.core.transformer.spec_utils import build_module  # noqa: E402

from model import parallel  # noqa: E402
from model.layout import LayoutSettings  # noqa: E402
from model.network.modules import CausalAttention, Norm  # noqa: E402
from model.network.parallel_residual import ParallelResidualLayer  # noqa: E402
from tests.model.network.splitting import LAYOUTS, check_gradients, config, draw, fill, own_part  # noqa: E402
from tests.model.two_processes import TwoProcesses  # noqa: E402

LENGTH, BATCH, HIDDEN = 6, 2, 32
NAMES = {
    "input_layernorm": "input_layernorm",
    "pre_mlp_layernorm": "post_attention_layernorm",
    "self_attention.linear_qkv": "attention.query_key_value",
    "self_attention.linear_proj": "attention.dense",
    "mlp.linear_fc1": "mlp.dense_h_to_4h",
    "mlp.linear_fc2": "mlp.dense_4h_to_h",
}


def layer(layout: LayoutSettings, hidden_dropout: float = 0.0) -> Any:
    chosen = {"normalization": "LayerNorm", "hidden_dropout": hidden_dropout, "attention_dropout": 0.0}
    spec = get_gpt_layer_local_spec()
    spec.module = ParallelResidualLayer
    spec.submodules.input_layernorm = spec.submodules.pre_mlp_layernorm = Norm
    spec.submodules.self_attention.submodules.core_attention = CausalAttention
    return build_module(spec, config=config(layout, **chosen))


def transformers_layer() -> GPTNeoXLayer:
    found = GPTNeoXLayer(
        GPTNeoXConfig(hidden_size=HIDDEN, intermediate_size=4 * HIDDEN, num_attention_heads=4, layer_norm_eps=0.1), 0
    )
    for seed, weight in enumerate(found.parameters()):
        weight.data = draw(*weight.shape, seed=seed) / 4
    return found


def two_documents() -> Tensor:
    """Return what a token may see: itself and those before it, from the second token on without the first."""
    mask = torch.ones(LENGTH, LENGTH, dtype=torch.bool).tril()
    mask[1:, 0] = False
    return mask.expand(BATCH, 1, LENGTH, LENGTH)


def by_definition(x: Tensor, theirs: GPTNeoXLayer) -> Tensor:
    """Return what `[s, b, h]` becomes, without rotation."""
    hidden = torch.zeros(BATCH, 1, LENGTH, LENGTH).masked_fill(~two_documents(), -torch.inf)
    unturned = torch.ones(BATCH, LENGTH, 2), torch.zeros(BATCH, LENGTH, 2)
    out: Tensor = theirs(x.transpose(0, 1), attention_mask=hidden, position_embeddings=unturned)
    return out.transpose(0, 1)


def in_megatrons_names(theirs: GPTNeoXLayer) -> dict[str, Tensor]:
    weights = dict(theirs.named_parameters())
    return {f"{ours}.{kind}": weights[f"{name}.{kind}"] for ours, name in NAMES.items() for kind in ("weight", "bias")}


def check(layout: LayoutSettings) -> None:
    """Compare this process's part of the output, and of all gradients, with those of the whole."""
    with parallel.processes(layout, "cpu", num_threads=1, seed=0):
        theirs, upstream = transformers_layer(), draw(LENGTH, BATCH, HIDDEN, seed=98)
        whole = draw(LENGTH, BATCH, HIDDEN, seed=99).requires_grad_()
        expected = by_definition(whole, theirs)
        expected.backward(upstream)
        assert whole.grad is not None
        ours, weights = layer(layout), in_megatrons_names(theirs)
        fill(ours, weights)
        cut = (lambda x: own_part(x, 0)) if layout.sequence_parallel else (lambda x: x)
        own = cut(whole.detach()).requires_grad_()
        out, _ = ours(own, two_documents())
        out.backward(cut(upstream))
        torch.testing.assert_close(out, cut(expected), rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(own.grad, cut(whole.grad), rtol=1e-5, atol=1e-5)
        check_gradients(ours, weights)


def test_the_layer_is_that_of_transformers() -> None:
    check(LayoutSettings())


@pytest.mark.parametrize("layout", LAYOUTS, ids=["", "sequence"])
def test_processes_share_the_layer(two_processes: TwoProcesses, layout: LayoutSettings) -> None:
    two_processes(check, layout)


def test_attention_and_mlp_are_dropped_each_by_itself() -> None:
    with parallel.processes(LayoutSettings(), "cpu", num_threads=1, seed=0):
        ours, x = layer(LayoutSettings(), hidden_dropout=0.5), draw(LENGTH, BATCH, HIDDEN)
        attended, _ = ours.self_attention(ours.input_layernorm(x), attention_mask=None)
        transformed, _ = ours.mlp(ours.pre_mlp_layernorm(x))
        torch.manual_seed(3)
        out, _ = ours(x)
        torch.manual_seed(3)
        torch.testing.assert_close(out, x + functional.dropout(attended, 0.5) + functional.dropout(transformed, 0.5))


def test_the_layer_is_one_graph() -> None:
    with parallel.processes(LayoutSettings(), "cpu", num_threads=1, seed=0):
        ours, x = layer(LayoutSettings()), draw(LENGTH, BATCH, HIDDEN)
        graph = torch.compile(ours.forward, backend="aot_eager", fullgraph=True, dynamic=False)
        torch.testing.assert_close(graph(x)[0], ours(x)[0])
