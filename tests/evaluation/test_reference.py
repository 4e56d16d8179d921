"""The embedded models hold what the committed results say they reach: no release loses accuracy silently."""

import dataclasses
from pathlib import Path

import pytest

from cascade_kp.evaluation.compare import compare
from cascade_kp.evaluation.protocol import evaluate
from cascade_kp.evaluation.result import load_result

ROOT = Path(__file__).parents[2]
DATA = ROOT.parent / "shared" / "data" / "300w"
REFERENCES = sorted((ROOT / "benchmarks" / "results").glob("evaluation-*-truth.json"))

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not REFERENCES, reason="no committed results here: not a checkout"),
    pytest.mark.skipif(not DATA.is_dir(), reason=f"no research data at {DATA}"),
]


@pytest.fixture(scope="module", params=REFERENCES, ids=lambda path: path.stem)
def pair(request):
    """A committed result, and the same evaluation made anew."""
    committed = load_result(request.param)
    parts = {"300w/afw": "afw", "helen/trainset": "helen/trainset", "lfpw/trainset": "lfpw/trainset"}
    parts |= {"helen/testset": "helen/testset", "lfpw/testset": "lfpw/testset"}
    split = ROOT / "datasets" / "300w" / "validation.txt" if "validation" in request.param.stem else None
    anew = evaluate(
        committed.model["name"], [DATA / parts[name] for name in committed.data["folders"]], split=split, threads=2
    )
    return committed, anew.result


def test_an_embedded_model_loses_nothing_against_its_committed_result(pair):
    committed, anew = pair
    lost = compare(committed, anew, stage="all").worse
    assert not lost, f"worse than committed: {lost}"


def test_the_committed_result_is_of_the_model_and_the_faces_that_are_here(pair):
    committed, anew = pair
    assert committed.model["sha256"] == anew.model["sha256"]
    assert committed.data["sha256"] == anew.data["sha256"]


def test_a_loss_would_be_noticed(pair):
    committed, anew = pair
    # A release whose specialists had stopped working would answer with stage one's points.
    errors = {**anew.errors, "regions": anew.errors["coarse"]}
    assert compare(committed, dataclasses.replace(anew, errors=errors)).worse
