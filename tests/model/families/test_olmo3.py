"""What OLMo 3 refuses."""

import pytest
from pydantic import ValidationError

from model.families.olmo3 import Olmo3
from tests.model.families import table


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"layer_types": ["full_attention"]}, "layer_types has 1 entries for num_layers = 4; give one a layer"),
        ({"rope_scaling": {**table.YARN, "truncate": False}}, "truncate is false, which transformers overlooks"),
    ],
)
def test_what_cannot_be_exported_is_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        Olmo3.model_validate({**table.SHAPE, **changes})
