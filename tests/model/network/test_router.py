"""The choice among groups of experts; the families' tests hold it to `transformers`."""

import pytest
import torch

from model import megatron

megatron.install()

from megatron.core.transformer.moe.moe_utils import get_default_pg_collection  # noqa: E402 - after install

from model import parallel  # noqa: E402
from model.layout import LayoutSettings  # noqa: E402
from model.network.router import GroupLimitedRouter  # noqa: E402
from tests.model.network import splitting  # noqa: E402

LOGITS = torch.tensor([[2.0, -2.0, 1.0, 0.9, -1.0, -1.0], [-3.0, 1.0, -3.0, 0.5, 1.1, -3.0]])
"""Of two tokens for three groups of two experts `[tokens, experts]`."""


@pytest.mark.parametrize(
    ("best", "groups", "chosen"),
    [
        (1, 1, [[0, 1], [4, 5]]),
        (2, 1, [[2, 3], [4, 5]]),  # the second token's groups differ in their best alone
        (1, 2, [[0, 2], [1, 4]]),
        (2, 2, [[0, 2], [1, 4]]),
    ],
)
def test_experts_are_of_the_best_groups(best: int, groups: int, chosen: list[list[int]]) -> None:
    with parallel.processes(LayoutSettings(), "cpu", num_threads=1, seed=0):
        config = splitting.config(
            LayoutSettings(),
            **{"num_moe_experts": 6, "moe_router_topk": 2, "moe_router_score_function": "sigmoid"},
            **{"moe_router_num_groups": 3, "moe_router_group_topk": groups, "moe_ffn_hidden_size": 8},
        )
        router = GroupLimitedRouter(best, config=config, pg_collection=get_default_pg_collection())
        weights, visited = router.routing(LOGITS[None])
    assert [row.nonzero().flatten().tolist() for row in visited] == chosen
    scores = LOGITS.sigmoid() * visited
    torch.testing.assert_close(weights, scores / scores.sum(-1, keepdim=True))
