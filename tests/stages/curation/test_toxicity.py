import csv
import json
from pathlib import Path

from stages.curation.chain import Chain
from stages.curation.toxicity import TOXIC, Toxicity
from stages.files import sha256_file
from tests.shared import shared
from tests.stages.curation.documents import document


def toxicity(examples: Path) -> Toxicity:
    return Toxicity(
        step="toxicity", examples=examples, sha256=sha256_file(examples), toxic=("hateful",), min_score=0.5, bits=14
    )


def examples(folder: Path) -> Path:
    path = folder / "examples.jsonl"
    rows = [(f"you are all fools {n}", "hateful") for n in range(40)] + [
        (f"what a lovely day {n}", "fine") for n in range(40)
    ]
    path.write_text("".join(json.dumps({"text": text, "label": label}) + "\n" for text, label in rows))
    return path


def test_a_toxic_text_has_a_tag_and_every_text_a_score(tmp_path: Path) -> None:
    bad, good = toxicity(examples(tmp_path)).build()([document("you are fools"), document("a lovely day")])
    assert (bad.tags, good.tags) == ((TOXIC,), ())
    assert bad.numbers["toxicity"] > 0.5 > good.numbers["toxicity"]
    assert bad.reason is good.reason is None


def test_a_policy_may_drop_by_the_tag(tmp_path: Path) -> None:
    settings = toxicity(examples(tmp_path)).model_dump(mode="json")
    chain = Chain.model_validate_json(json.dumps({"steps": [settings], "drop_tags": [TOXIC]})).build()
    assert [outcome.reason for outcome in chain([document("you are fools"), document("a lovely day")])] == [
        "tag:toxic",
        None,
    ]


def test_what_is_learnt_from_templates_holds_for_templates_only() -> None:
    folder = shared("curation") / "toxicity"
    classifier, quality = toxicity(folder / "hatecheck.jsonl").quality().classifier()
    assert quality.auc > 0.95
    with (folder / "tsd_trial.csv").open(newline="", encoding="utf-8") as file:
        comments = list(csv.DictReader(file))
    scores = classifier.scores([comment["text"] for comment in comments]).tolist()
    toxic = [score for score, comment in zip(scores, comments, strict=True) if comment["spans"] != "[]"]
    others = [score for score, comment in zip(scores, comments, strict=True) if comment["spans"] == "[]"]
    higher = sum(score > other for score in toxic for other in others)
    assert 0.4 < higher / (len(toxic) * len(others)) < 0.6
