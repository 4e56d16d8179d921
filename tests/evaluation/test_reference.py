"""The embedded models hold what the committed results say they reach: no release loses accuracy silently."""

import dataclasses
from pathlib import Path

import pytest

from cascade_kp.evaluation.compare import compare
from cascade_kp.evaluation.protocol import evaluate
from cascade_kp.evaluation.result import load_result
from cascade_kp.weights import available_models

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "benchmarks" / "results"
# The detector's, and the accurate model's, are held on the validation faces only: on the test faces it takes minutes.
REFERENCES = sorted(
    {*RESULTS.glob("evaluation-*-truth.json"), *RESULTS.glob("evaluation-*-validation-*.json")}
    - {RESULTS / "evaluation-ibug68-accurate-common-truth.json"}
)
PARTS = {"300w/afw": "afw"}  # how results call a folder, and where it is below 300w, if that is another name

pytestmark = pytest.mark.skipif(not RESULTS.is_dir(), reason="no committed results here: not a checkout")


@pytest.mark.parametrize("model", available_models())
@pytest.mark.parametrize("boxes", ["truth", "detector"])
def test_every_embedded_model_has_a_committed_result(model, boxes):
    committed = load_result(RESULTS / f"evaluation-{model}-validation-{boxes}.json")
    assert committed.model["name"] == model
    assert committed.protocol["boxes"] == boxes


@pytest.fixture(scope="module", params=REFERENCES, ids=lambda path: path.stem)
def pair(request, shared_data):
    """A committed result, and the same evaluation made anew."""
    committed = load_result(request.param)
    anew = evaluate(
        committed.model["name"],
        [shared_data / "300w" / PARTS.get(name, name) for name in committed.data["folders"]],
        labels="ibug68",
        split=ROOT / "datasets" / "300w" / "validation.txt" if "validation" in request.param.stem else None,
        boxes=committed.protocol["boxes"],
        threads=2,
    )
    return committed, anew.result


@pytest.mark.slow
def test_an_embedded_model_loses_nothing_against_its_committed_result(pair):
    committed, anew = pair
    lost = compare(committed, anew, stage="all").worse
    assert not lost, f"worse than committed: {lost}"


@pytest.mark.slow
def test_the_committed_result_is_of_the_model_and_the_faces_that_are_here(pair):
    committed, anew = pair
    assert committed.model["sha256"] == anew.model["sha256"]
    assert committed.data["sha256"] == anew.data["sha256"]


@pytest.mark.slow
def test_a_loss_would_be_noticed(pair):
    committed, anew = pair
    if "regions" in anew.errors:
        # A release whose specialists had stopped working would answer with stage one's points.
        errors = {**anew.errors, "regions": anew.errors["coarse"]}
    else:
        errors = {"coarse": {group: 1.05 * values for group, values in anew.errors["coarse"].items()}}
    assert compare(committed, dataclasses.replace(anew, errors=errors)).worse


@pytest.mark.slow
def test_ten_faces_that_are_no_longer_found_would_be_noticed(pair):
    committed, anew = pair
    lost = {stage: {group: errors.copy() for group, errors in groups.items()} for stage, groups in anew.errors.items()}
    for groups in lost.values():
        for errors in groups.values():
            errors[:10] = float("inf")
    worse = compare(committed, dataclasses.replace(anew, errors=lost)).worse
    assert "fr" in {change.metric for change in worse}
