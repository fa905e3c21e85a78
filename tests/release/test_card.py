"""The card's metadata is what the Hub accepts, and its numbers are the run's."""

from pathlib import Path
from typing import Any

from huggingface_hub import ModelCard
from transformers import AutoModelForCausalLM, AutoTokenizer

from release import card, metadata, summary
from release.facts import read
from stages.files import read_json, write_json


def test_hub_reads_the_metadata(released: Path) -> None:
    data = ModelCard.load(released / "README.md").data
    assert (data.license, data.library_name, data.pipeline_tag) == ("apache-2.0", "transformers", "text-generation")
    results = read_json(released / "evaluation" / "results.json")
    stated = {(row.dataset_type, row.metric_type): row.metric_value for row in data.eval_results or []}
    assert stated["openbase-test-code", "bits_per_byte"] == results["bits_per_byte"]["code"]["model"]["value"]
    assert stated["openbase-test-all", "accuracy"] == results["continuation"]["all"]["accuracy"]["value"]


def test_license_that_the_hub_does_not_list_is_named_beside() -> None:
    assert metadata._license("EUPL-1.2") == {
        "license": "other",
        "license_name": "eupl-1.2",
        "license_link": "LICENSE",
    }


def test_release_loads_as_the_card_says(released: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(released)
    model: Any = AutoModelForCausalLM.from_pretrained(released)
    inputs = tokenizer("def main(", return_tensors="pt", return_token_type_ids=False)
    output = model.generate(**inputs, max_new_tokens=4, do_sample=False)
    assert output.shape[1] == inputs["input_ids"].shape[1] + 4


def test_a_license_that_only_the_repository_states_is_told(released: Path) -> None:
    manifest = read_json(released / "data/manifest.json")
    name = min(manifest["sources"])
    told = {"license_basis": "repository", "license_note": "Later editions are under CC-BY-NC-SA-4.0."}
    manifest["sources"][name]["settings"] |= told
    write_json(released / "data/manifest.json", manifest)
    text = card.render(released)
    assert f"The license of `{name}` is that of a file of its repository" in text
    assert f"The license of `{name}`: {told['license_note']}\n" in text


def test_summary_has_the_headline_numbers(released: Path) -> None:
    text = summary.text(released)
    known = read(released)
    assert f"{known.metrics['parameters']:,} parameters, 400 tokens" in text
    assert "python -m release.verify" in text


def test_a_benchmark_that_the_data_was_not_checked_against_is_told(released: Path) -> None:
    results = read_json(released / "evaluation/results.json")
    results["benchmarks"] = {"piqa": {"version": 1, "metrics": {"acc,none": 0.5, "acc_stderr,none": None}}}
    results["coverage"] = {"asked": {"piqa": ["piqa"]}, "covered": {}, "uncovered_tasks": ["piqa"]}
    write_json(released / "evaluation/results.json", results)
    run = read_json(released / "training/run.json")
    run["settings"]["pretrain"]["eval_tasks"] = {"tasks": ["arc_easy", "piqa"]}
    write_json(released / "training/run.json", run)
    text = card.render(released)
    assert "| piqa | **not checked** | acc,none | 0.5000 |\n| piqa | **not checked** | acc_stderr,none | n/a |" in text
    assert "The training data was not checked against piqa:" in text
    assert "| arc_easy | arc |\n| piqa | **not checked** |" in text


def test_the_data_is_told_from_what_curation_counted(released: Path) -> None:
    lines = (released / "README.md").read_text().splitlines()
    for line in (
        "| source | stdlib | 11 | 2 | 9 | 3 | 3 | 3 |",
        "| MIT |  | 3 | 300 | 30 |",
        "6 documents are in 3 clusters of equal or nearly equal ones; no cluster is in two splits.",
        "| letters | 1 | 30 |",
        "| code | email | mask |",
        f"| arc | `{'4' * 64}` | 9 | 1 | 1 | 0 | 1 | 0 |",
    ):
        assert line in lines
    assert not any(line.startswith("Languages of the train split") for line in lines), "nobody looked for them"


def test_languages_are_told_where_they_were_identified(released: Path) -> None:
    curation = read_json(released / "data/curation.json")
    curation["kept"]["train"]["by"]["language"] = {"de": {"documents": 2, "bytes": 200}}
    write_json(released / "data/curation.json", curation)
    assert "| de | 2 | 200 |" in card.render(released)
