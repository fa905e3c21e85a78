import math
import subprocess
import sys
from pathlib import Path

import pytest

from evals.recompute import results_from_samples
from stages.files import write_jsonl


@pytest.fixture
def samples(tmp_path: Path) -> Path:
    """Two domains of two documents with round numbers; three questions about two documents."""
    for scale, domain in enumerate(["code", "prose"], start=1):
        rows = [
            {
                "id": f"{domain}{size}",
                "bytes": 100 * size,
                "tokens": 30,
                "log_likelihood": -100 * size * scale * math.log(2),
                "unigram_nats": 300 * size * math.log(2),
                "xz_bytes": 50 * size,
                "zstd_bytes": 25 * size,
            }
            for size in (1, 3)
        ]
        write_jsonl(tmp_path / f"bits_per_byte_{domain}.jsonl", rows)
    joined = {"code": 400, "prose": 400, "all": 800}
    rows = [{"domain": name, "bytes": size, "xz_bytes": 100, "zstd_bytes": 50} for name, size in joined.items()]
    write_jsonl(tmp_path / "concatenated.jsonl", rows)
    even, uneven = [10, 10, 10, 10], [10, 20, 10, 10]
    answers = [
        {"id": "1", "document": "a", "gold": 0, "log_likelihoods": [-1, -2, -3, -4], "characters": even},
        {"id": "2", "document": "a", "gold": 1, "log_likelihoods": [-2, -3, -9, -9], "characters": uneven},
        {"id": "3", "document": "b", "gold": 1, "log_likelihoods": [-1, -1, -9, -9], "characters": even},
    ]
    write_jsonl(tmp_path / "continuation_code.jsonl", answers)
    return tmp_path


def test_bits_per_byte_by_hand(samples: Path) -> None:
    results = results_from_samples(samples)["bits_per_byte"]
    assert {domain: results[domain]["model"]["value"] for domain in results} == pytest.approx(
        {"code": 1, "prose": 2, "all": 1.5}
    )
    code = results["code"]
    assert (code["documents"], code["bytes"]) == (2, 400)
    assert code["unigram"]["value"] == pytest.approx(3)
    assert (code["xz_document"]["value"], code["zstd_document"]["value"]) == (4, 2)
    assert (code["xz_concatenated"], code["zstd_concatenated"]) == ({"value": 2}, {"value": 1})
    assert results["all"]["xz_concatenated"] == {"value": 1}


def test_a_constant_rate_has_no_error_until_domains_are_pooled(samples: Path) -> None:
    results = results_from_samples(samples)["bits_per_byte"]
    assert results["code"]["model"]["stderr"] == pytest.approx(0, abs=1e-12)
    assert results["all"]["model"]["stderr"] > 0.1


def test_accuracies_follow_from_the_log_likelihoods(samples: Path) -> None:
    code = results_from_samples(samples)["continuation"]["code"]
    assert (code["questions"], code["documents"], code["chance"]) == (3, 2, 0.25)
    assert code["accuracy"]["value"] == pytest.approx(1 / 3)  # of equals the first counts
    assert code["accuracy_norm"]["value"] == pytest.approx(2 / 3)


def test_questions_of_one_document_count_as_one_draw(samples: Path) -> None:
    """By hand: accuracies of two and no questions right, r = 2/3, residuals 2/3 and -2/3."""
    norm = results_from_samples(samples)["continuation"]["code"]["accuracy_norm"]
    assert norm["stderr"] == pytest.approx(math.sqrt(2 * (4 / 9 + 4 / 9)) / 3)


def test_recomputing_needs_neither_torch_nor_lm_eval() -> None:
    code = "import sys, evals.recompute; print({'torch', 'lm_eval', 'transformers'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout == b"set()\n"
