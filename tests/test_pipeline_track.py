"""Faces followed by the embedded model through clips made of scikit-image's astronaut (public domain)."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from video_case import grained, slides

from cascade_kp import Pipeline
from cascade_kp import pipeline as module
from cascade_kp.errors import CascadeError, ImageError, InputError
from cascade_kp.runtime.detector import SingleShotDetector
from cascade_kp.structures import Face


@pytest.fixture(scope="module")
def astronaut():
    data = pytest.importorskip("skimage.data")
    return np.ascontiguousarray(data.astronaut()[:256, 60:412])


@pytest.fixture(scope="module")
def empty(astronaut):
    return np.full_like(astronaut, 90)


@pytest.fixture(scope="module")
def two(astronaut):
    """Two faces, the right one a mirror image."""
    return np.hstack([astronaut, astronaut[:, ::-1]])


@pytest.fixture(scope="module")
def pipe():
    torch.set_num_threads(1)
    return Pipeline()


@pytest.fixture
def searches(monkeypatch):
    """How often the detector was asked, and at which rolls."""
    asked = []
    detect = SingleShotDetector.detect

    def counted(self, image, angles=None):
        asked.append(angles)
        return detect(self, image, angles)

    monkeypatch.setattr(SingleShotDetector, "detect", counted)
    return asked


def ids(results):
    return [[face.id for face in result] for result in results]


def middles(results):
    return np.array([result[0].keypoints.mean(axis=0) for result in results])


def test_a_face_is_followed_where_it_goes(pipe, astronaut, searches):
    ways = [(3.0 * i, 1.5 * i) for i in range(12)]
    frames = slides(astronaut, ways)
    results = list(pipe.track(frames, detect_every=100))
    assert ids(results) == [[0]] * 12
    assert searches == [None]  # in the first frame only
    assert all(isinstance(result[0], Face) for result in results)
    moved = middles(results) - middles(results)[0]
    np.testing.assert_allclose(moved, ways, atol=1.0)


def test_the_points_are_those_of_a_call(pipe, astronaut):
    (found,) = pipe(astronaut)
    first, second = pipe.track([astronaut, astronaut], smooth=False)
    for face in (*first, *second):
        np.testing.assert_allclose(face.keypoints, found.keypoints, atol=0.6)
        np.testing.assert_allclose(face.box, [*face.keypoints.min(axis=0), *face.keypoints.max(axis=0)])
    np.testing.assert_array_equal(first[0].keypoints, found.keypoints)


def test_points_are_held_still_on_request(pipe, astronaut):
    rng = np.random.default_rng(0)
    frames = [grained(astronaut, rng) for _ in range(15)]

    def jitter(smooth):
        points = np.array([result[0].keypoints for result in pipe.track(frames, smooth=smooth, detect_every=100)])
        return np.sqrt((np.diff(points, axis=0) ** 2).sum(axis=-1).mean())

    assert 3 * jitter(smooth=True) < jitter(smooth=False)


def test_sigma_and_coarse_are_what_the_networks_said(pipe, astronaut):
    rng = np.random.default_rng(0)
    frames = [grained(astronaut, rng) for _ in range(3)]
    plain, steady = (list(pipe.track(frames, smooth=smooth))[-1][0] for smooth in (False, True))
    np.testing.assert_array_equal(plain.sigma, steady.sigma)
    np.testing.assert_array_equal(plain.coarse, steady.coarse)
    assert np.abs(plain.keypoints - steady.keypoints).max() > 0


def test_two_faces_are_told_apart_and_sorted_by_number(pipe, two):
    frames = slides(two, [(2.0 * i, 0.0) for i in range(6)])
    results = list(pipe.track(frames))
    assert ids(results) == [[0, 1]] * 6
    places = np.array([[face.keypoints[:, 0].mean() for face in result] for result in results])
    assert (np.sign(places[:, 0] - places[:, 1]) == np.sign(places[0, 0] - places[0, 1])).all()


def test_lost_and_broken_frames_are_survived(pipe, astronaut, tmp_path):
    (tmp_path / "text.jpg").write_text("no picture")
    own = ImageError("frame 2: cannot be decoded")
    ways = [(6.0 * i, 0.0) for i in range(8)]
    frames = slides(astronaut, ways)
    frames[2], frames[3], frames[5] = own, None, tmp_path / "text.jpg"
    results = list(pipe.track(frames, detect_every=100))
    assert [isinstance(result, CascadeError) for result in results] == [i in (2, 3, 5) for i in range(8)]
    assert results[2] is own
    assert "text.jpg" in str(results[5])
    assert ids(result for result in results if isinstance(result, list)) == [[0]] * 5


def test_a_face_that_leaves_and_comes_back_keeps_its_number(pipe, astronaut, empty, searches):
    frames = [astronaut] * 3 + [empty] * 5 + [astronaut] * 2
    results = list(pipe.track(frames, detect_every=100))
    assert ids(results) == [[0]] * 3 + [[]] * 5 + [[0]] * 2
    assert len(searches) == 2  # at the start, and when it was lost; it was found again where it had been


def test_a_new_face_is_found_by_the_next_search(pipe, astronaut, empty):
    frames = [empty] * 2 + [astronaut] * 5
    results = ids(pipe.track(frames, detect_every=4))
    assert results == [[]] * 4 + [[0]] * 3


def test_a_second_face_is_found_beside_the_first(pipe, two):
    one = two.copy()
    one[:, two.shape[1] // 2 :] = 90
    results = ids(pipe.track([one, one, two, two, two], detect_every=3))
    assert results == [[0]] * 3 + [[0, 1]] * 2


def test_another_face_elsewhere_gets_another_number(pipe, two):
    left, right = two.copy(), two.copy()
    left[:, two.shape[1] // 2 :] = 90
    right[:, : two.shape[1] // 2] = 90
    assert ids(pipe.track([left, left, right, right])) == [[0], [0], [1], [1]]


def test_two_that_end_on_the_same_face_are_one(pipe, astronaut):
    """The boxes of both are near enough for stage one to find the only face that is left."""
    patch = astronaut[60:200, 110:230]

    def picture(*places):
        canvas = np.full((256, 400, 3), 90, np.uint8)
        for x in places:
            canvas[60:200, x : x + 120] = patch
        return canvas

    results = ids(pipe.track([picture(80, 170), picture(125), picture(125)], detect_every=100))
    assert results[0] == [0, 1]
    assert results[1] == results[2]
    assert results[1] in ([0], [1])


def test_rolled_faces_are_followed_at_their_roll(pipe, astronaut, searches):
    turned = np.ascontiguousarray(np.rot90(astronaut))
    results = list(pipe.track(slides(turned, [(0.0, 2.0 * i) for i in range(6)]), detect_every=100))
    assert ids(results) == [[0]] * 6
    assert searches == [None]  # found as it lies, in the first frame
    eyes = results[-1][0].keypoints[[36, 45]]
    assert abs(eyes[0, 1] - eyes[1, 1]) > abs(eyes[0, 0] - eyes[1, 0])


def test_empty_frames_are_not_turned_all_the_way_each_time(pipe, empty, searches):
    small = np.ascontiguousarray(empty[:120, :120])
    assert ids(pipe.track([small] * 6, detect_every=2)) == [[]] * 6
    turned = [angles for angles in searches if angles is not None]
    pairs = module._RETRY_ROLLS_DEG
    assert turned[: len(pairs)] == list(pairs)
    assert len(turned) == len(pairs) + 2  # one for each of the two later searches
    assert turned[-1] != turned[-2]


def test_the_embedded_detector_without_turns_is_never_turned(empty, searches):
    small = np.ascontiguousarray(empty[:120, :120])
    list(Pipeline(detector=SingleShotDetector()).track([small] * 3, detect_every=1))
    assert searches == [None] * 3


def test_without_a_detector_the_picture_is_the_face(astronaut):
    crop = np.ascontiguousarray(astronaut[70:200, 100:230])
    whole = Pipeline(detector=None)
    results = list(whole.track(slides(crop, [(2.0 * i, 0.0) for i in range(4)]), smooth=False))
    assert ids(results) == [[0]] * 4
    np.testing.assert_array_equal(results[0][0].keypoints, whole(crop)[0].keypoints)


def test_a_bad_detector_is_an_error_in_place(astronaut):
    results = list(Pipeline(detector=lambda _: "nothing").track([astronaut] * 2))
    assert all(isinstance(result, InputError) for result in results)


def test_times_are_taken_in_step_and_lazily(pipe, astronaut):
    frames, seen = itertools.repeat(astronaut), []

    def times():
        for i in itertools.count():
            seen.append(i)
            yield 0.1 * i

    results = pipe.track(frames, times=times())
    next(results)
    next(results)
    assert seen == [0, 1]


@pytest.mark.parametrize(
    ("times", "message"),
    [
        ([0.0], "expected one for each frame, got 1"),
        ([0.0, np.nan], "times: expected finite seconds, got nan for frame 1"),
        ([0, None], "times: expected finite seconds, got None for frame 1"),
        ([0, "1"], "times: expected finite seconds, got '1' for frame 1"),
        ([0.0, 10**400], "times: expected finite seconds, got 10+ for frame 1"),
    ],
)
def test_times_that_are_missing_are_told(pipe, astronaut, times, message):
    results = pipe.track([astronaut] * 2, times=times)
    next(results)
    with pytest.raises(InputError, match=message):
        next(results)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"fps": 0}, "fps: expected a positive number, got 0"),
        ({"fps": float("nan")}, "fps"),
        ({"fps": "30"}, "fps"),
        ({"detect_every": 0}, "detect_every: expected a positive whole number, got 0"),
        ({"detect_every": True}, "detect_every"),
        ({"detect_every": 1.5}, "detect_every"),
    ],
)
def test_bad_options_are_refused_at_once(pipe, options, message):
    with pytest.raises(InputError, match=message):
        pipe.track([], **options)


@pytest.mark.parametrize("frames", ["clip.mp4", 3, None])
def test_what_holds_no_frames_is_refused_at_once(pipe, frames):
    with pytest.raises(InputError, match="track: expected an iterable of pictures"):
        pipe.track(frames)
    assert list(pipe.track([])) == []
