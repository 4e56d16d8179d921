from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
from evaluation_case import made_evaluation

from cascade_kp.errors import InputError
from cascade_kp.evaluation.calibration import EXPECTED, calibration


def test_a_sigma_that_is_right_holds_68_percent_and_lies_on_the_diagonal():
    found = calibration(made_evaluation(400))
    assert found is not None
    assert found.stage == "regions"
    whole = found.shares["68"]
    assert whole.held == pytest.approx(EXPECTED, abs=0.01)
    assert whole.low < whole.held < whole.high
    assert whole.n == 400 * 68
    assert list(found.shares) == ["68", "51", "jaw", "right_eye", "left_eye", "nose", "mouth"]
    assert len(found.steps) == 10
    for step in found.steps:
        assert step.observed == pytest.approx(step.predicted, rel=0.12)
    assert sum(step.n for step in found.steps) == 400 * 68
    predicted = [step.predicted for step in found.steps]
    assert predicted == sorted(predicted)


def test_a_sigma_twice_too_large_shows():
    made = made_evaluation(200)
    doubled = dataclasses.replace(made, sigma={stage: 2 * values for stage, values in made.sigma.items()})
    found = calibration(doubled)
    assert found is not None
    assert found.shares["68"].held == pytest.approx(1 - np.exp(-2 * -np.log(0.32) * 2), abs=0.02)
    assert all(step.observed < 0.6 * step.predicted for step in found.steps)


def test_by_hand():
    made = made_evaluation(2, sigma=True)
    truth = made.truth
    offsets = np.zeros((2, 68, 2), np.float32)
    offsets[0, :34, 0] = 2.0  # half of the first face's points are off by more than sigma
    radii = np.ones((2, 68), np.float32)
    radii[1, 0] = np.nan
    found = calibration(
        dataclasses.replace(made, keypoints={**made.keypoints, "regions": truth + offsets}, sigma={"regions": radii})
    )
    assert found is not None
    assert found.shares["68"].held == pytest.approx((34 + 67) / (68 + 67))
    assert found.shares["68"].n == 135
    assert found.shares["jaw"].held == pytest.approx(16 / 33)
    # Resamples hold the first face twice, both, or the second twice; the ends are those of the extremes.
    assert found.shares["68"].low == pytest.approx(0.5)
    assert found.shares["68"].high == pytest.approx(1.0)


def test_missed_and_excluded_faces_and_missing_labels_do_not_count():
    made = made_evaluation(20, missed=(3,), excluded=(4,))
    made.truth[5, 10] = np.nan
    found = calibration(made)
    assert found is not None
    # An excluded face lacks two labels only: its other points tell whether sigma holds, but not in units of the norm.
    assert found.shares["68"].n == 19 * 68 - 2 - 1
    assert sum(step.n for step in found.steps) == 18 * 68 - 1


def test_few_points_make_few_steps():
    made = made_evaluation(1)
    radii = np.full((1, 68), np.nan, np.float32)
    radii[0, :3] = [3.0, 1.0, 2.0]
    found = calibration(dataclasses.replace(made, sigma={"regions": radii}))
    assert found is not None
    unit = np.linalg.norm(made.truth[0, 36] - made.truth[0, 45])
    assert [step.predicted for step in found.steps] == pytest.approx([1 / unit, 2 / unit, 3 / unit])


def test_another_stage_and_none():
    made = made_evaluation(10)
    other = calibration(made, "oracle")
    assert other is not None
    assert other.stage == "oracle"
    with pytest.raises(InputError, match=r"regions, oracle\), got 'coarse'"):
        calibration(made, "coarse")
    assert calibration(made_evaluation(5, sigma=False)) is None
    assert calibration(made_evaluation(3, missed=(0, 1, 2))) is None
    alone = calibration(made_evaluation(5, stages=("coarse",)))
    assert alone is not None
    assert alone.stage == "coarse"


def test_as_json_without_nan():
    made = made_evaluation(6)
    made.sigma["regions"][:, :17] = np.nan  # nothing is known of the jaw
    found = calibration(made)
    assert found is not None
    content = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert content["shares"]["jaw"] == {"held": None, "ci95": [None, None], "n": 0}
    assert content["expected"] == EXPECTED
