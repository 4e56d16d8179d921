from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from cascade_kp import Pipeline
from cascade_kp.data.synthetic import synthetic_faces
from cascade_kp.errors import InputError
from cascade_kp.evaluation.faces import LabelledFaces, read_faces
from cascade_kp.evaluation.perturb import STEPS, perturbation
from cascade_kp.evaluation.protocol import Protocol, evaluate

AT_REST = STEPS.index(("shift", 0.0))


class Counted(list[Any]):
    """Samples that count how often each is asked for."""

    def __init__(self, samples: Any) -> None:
        super().__init__(samples)
        self.asked: list[int] = []

    def __getitem__(self, i: Any) -> Any:
        self.asked.append(i)
        return super().__getitem__(i)


@pytest.fixture(scope="module")
def pipe() -> Pipeline:
    return Pipeline(threads=1)


@pytest.fixture
def samples() -> Counted:
    return Counted(synthetic_faces(5, seed=3, size=(96, 96)))


def test_the_unmoved_box_gives_the_errors_of_an_evaluation(pipe, samples):
    plain = evaluate(pipe, samples, boxes="truth", resamples=10)
    found = perturbation(pipe, plain.faces, Protocol())
    assert found.points == "68"
    assert found.names == plain.faces.names
    for stage in ("coarse", "regions"):
        assert found.errors[stage].shape == (len(STEPS), 5)
        np.testing.assert_allclose(found.errors[stage][AT_REST], plain.result.errors[stage]["68"], rtol=1e-3)
        assert not np.allclose(found.errors[stage][-1], found.errors[stage][AT_REST], rtol=1e-3)


def test_every_chosen_picture_is_decoded_once_and_no_other(pipe, samples):
    faces = read_faces([samples], pipe.scheme)
    samples.asked.clear()
    found = perturbation(pipe, faces, Protocol(points=("nose",), norm="box"), limit=3)
    assert samples.asked == [0, 2, 4]
    assert len(found) == 3
    assert (found.points, found.norm) == ("nose", "box")


def test_faces_of_one_picture_share_it(pipe):
    sample = synthetic_faces(1, seed=3, size=(96, 96))[0]
    both = Counted([sample, {**sample, "keypoints": sample["keypoints"] + 1}])
    faces = read_faces([both], pipe.scheme)
    both.asked.clear()
    assert len(perturbation(pipe, faces, Protocol())) == 2
    assert both.asked == [0, 1]  # the second to see that it is the same


def test_the_same_face_is_moved_alike_in_any_company(pipe, samples):
    faces = read_faces([samples], pipe.scheme)
    whole = perturbation(pipe, faces, Protocol())
    first = perturbation(pipe, faces, Protocol(), limit=1)
    assert first.names == whole.names[:1]
    np.testing.assert_allclose(first.errors["regions"][:, 0], whole.errors["regions"][:, 0], rtol=1e-3)


def test_what_cannot_be_moved_or_boxed_is_left_out_and_counted(pipe, samples):
    corner = samples[1]
    # Only the face's edge is in the picture: a box moved the other way misses it, in whatever direction it goes.
    away = {**corner, "keypoints": corner["keypoints"] - corner["box"][2:] + np.float32(0.5), "path": "away"}
    empty = {**corner, "keypoints": np.full((68, 2), np.nan, np.float32), "path": "empty"}
    faces = read_faces([[samples[0], away, empty]], pipe.scheme)
    found = perturbation(pipe, faces, Protocol())
    assert found.names == faces.names[:1]
    assert found.left_out == 1
    nothing = perturbation(pipe, read_faces([[empty]], pipe.scheme), Protocol())
    assert len(nothing) == 0
    content = json.loads(json.dumps(nothing.to_dict(), allow_nan=False))
    assert content["stages"]["coarse"][0]["nme"] is None


def test_as_json(pipe, samples):
    content = json.loads(json.dumps(perturbation(pipe, read_faces([samples], pipe.scheme), Protocol()).to_dict()))
    assert content["n"] == 5
    assert content["steps"][1] == {"kind": "shift", "amount": 0.05}
    for rows in content["stages"].values():
        assert len(rows) == len(STEPS)
        for row in rows:
            assert row["nme_ci95"][0] <= row["nme"] <= row["nme_ci95"][1]
            assert 0 <= row["fr@0.08"] <= 1


@pytest.mark.parametrize("limit", [0, -1, 2.5, True])
def test_refuses_a_limit_that_is_no_count(pipe, samples, limit):
    with pytest.raises(InputError, match="limit"):
        perturbation(pipe, read_faces([samples], pipe.scheme), Protocol(), limit=limit)


def test_refuses_points_that_the_scheme_has_not(pipe, samples):
    with pytest.raises(InputError, match="'ear'"):
        perturbation(pipe, read_faces([samples], pipe.scheme), Protocol(points=("ear",)))


def test_a_picture_of_the_second_part(samples):
    faces = LabelledFaces(
        ([samples[0]], [samples[1], samples[2]]),
        None,  # type: ignore[arg-type]
        np.zeros((3, 68, 2), np.float32),
        ("a", "b", "c"),
        ("", "", ""),
        (".", ".", "."),
        (0, 1, 1),
    )
    assert faces.picture(2) is samples[2]["image"]
