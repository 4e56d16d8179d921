"""Following points: the filter holds still and does not drag, and every face keeps its number."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cascade_kp.data.synthetic import mean_face
from cascade_kp.tracking import OneEuro, SteadyFace, Tracks, face_size

FPS = 30.0
SIZE = (480, 640)
FACE = 50 * mean_face()  # about 78 x 83 px


def at(x, y, scale=1.0, roll=0.0):
    """The face with its middle there."""
    turn = np.array([[math.cos(roll), -math.sin(roll)], [math.sin(roll), math.cos(roll)]])
    return scale * (FACE - FACE.mean(axis=0)) @ turn.T + [x, y]


def steadied(frames, fps=FPS):
    steady = SteadyFace()
    return np.array([steady(points, 1 / fps) for points in frames])


def jitter(frames):
    return math.sqrt((np.diff(frames, axis=0) ** 2).sum(axis=-1).mean())


def lag(truth, shown):
    """Frames by which one is behind the other, least squares along the way."""
    velocity = np.gradient(truth, axis=0)[15:]
    return float(((truth - shown)[15:] * velocity).sum() / (velocity**2).sum())


# ------------------------------------------------------------------------------------------ the filter


def test_one_euro_by_hand():
    """Cutoffs 1 Hz + 2 Hz for each unit a second, speed's cutoff 1 Hz, one step of 0.1 s: worked out on paper."""
    step = 2 * math.pi * 0.1
    share = step / (1 + step)
    speed = share * 3 / 0.1  # the step of 3 in 0.1 s, through the low-pass of the speed
    cutoff = 2 * math.pi * (1 + 2 * speed) * 0.1
    low_pass = OneEuro(1.0, 2.0, 1.0)
    assert low_pass(np.zeros((1, 1)), 0.1)[0, 0] == 0
    assert low_pass(np.array([[3.0]]), 0.1)[0, 0] == pytest.approx(3 * cutoff / (1 + cutoff))


def test_one_euro_takes_a_vector_as_a_whole():
    low_pass = OneEuro(1.0, 2.0, 1.0)
    low_pass(np.zeros((2, 2)), 0.1)
    straight, slanted = low_pass(np.array([[5.0, 0.0], [3.0, 4.0]]), 0.1)
    np.testing.assert_allclose(np.linalg.norm(slanted), straight[0])


def test_the_first_points_come_back_as_they_are():
    np.testing.assert_allclose(SteadyFace()(at(100, 90, 1.3, 0.4), 0.1), at(100, 90, 1.3, 0.4), atol=1e-9)


def test_a_face_that_rests_is_held_still():
    rng = np.random.default_rng(0)
    raw = at(300, 200) + rng.normal(0, 0.15, (90, 68, 2))  # 0.2 % of the face
    assert jitter(raw[10:]) > 4 * jitter(steadied(raw)[10:])


@pytest.mark.parametrize(
    "way",
    [
        lambda t: at(100 + 12 * t, 200),  # 0.15 face sizes a second
        lambda t: at(100 + 160 * t, 200 + 40 * t),
        lambda t: at(300 + 25 * math.sin(2 * math.pi * t), 200),
        lambda t: at(300, 200, math.exp(0.25 * math.sin(math.pi * t))),
        lambda t: at(300, 200, 1.0, 0.4 * math.sin(math.pi * t)),
        lambda t: at(300, 200, 1.0, 6 * t),  # head over heels
    ],
    ids=["slow", "fast", "shaken", "nearer", "rolled", "turning"],
)
def test_a_face_that_moves_is_not_dragged_behind(way):
    truth = np.array([way(i / FPS) for i in range(75)])
    assert abs(lag(truth, steadied(truth))) < 0.5
    rng = np.random.default_rng(0)
    raw = truth + rng.normal(0, 0.15, truth.shape)
    assert abs(lag(truth, steadied(raw))) < 0.5


MOUTH = [7, 8, 9, 56, 57, 58, 65, 66, 67]


def pan(seconds):
    return np.array([at(100 + 0.05 * face_size(FACE) * t, 200) for t in seconds])  # 0.05 face sizes a second


def mouth(seconds):
    frames = np.array([at(300, 200)] * len(seconds))
    opened = 0.06 * face_size(FACE) * (1 - np.cos(4 * math.pi * seconds)) / 2  # by 6 % of the face, twice a second
    frames[:, MOUTH, 1] += opened[:, None]
    return frames


@pytest.mark.parametrize("fps", [30, 60, 120])
@pytest.mark.parametrize(("way", "which"), [(pan, slice(None)), (mouth, MOUTH)])
def test_at_every_rate_the_lag_is_below_a_frame_and_what_rests_is_still(fps, way, which):
    truth = way(np.arange(3 * fps) / fps)
    noise = np.random.default_rng(0).normal(0, 0.002 * face_size(FACE), truth.shape)
    shown = steadied(truth + noise, fps)
    assert 0 < lag(truth[:, which], shown[:, which]) < 1
    rests = at(300, 200) + noise
    assert jitter(rests[15:]) > 3 * jitter(steadied(rests, fps)[15:])


def test_points_are_held_still_within_a_face_that_moves():
    rng = np.random.default_rng(0)
    truth = np.array([at(100 + 4 * i, 200) for i in range(90)])
    raw = truth + rng.normal(0, 0.15, truth.shape)
    off = (steadied(raw) - truth)[10:]
    wobble = off - off.mean(axis=1, keepdims=True)
    assert 2.5 * jitter(wobble) < jitter((raw - truth)[10:])


def test_a_blink_is_not_smoothed_away():
    lids = [37, 38, 43, 44]
    closed = np.concatenate([np.zeros(20), [1 / 3, 2 / 3, 1, 1, 0.75, 0.5, 0.25], np.zeros(20)])
    frames = np.array([at(300, 200)] * len(closed))
    frames[:, lids, 1] += 4.0 * closed[:, None]
    shown = (steadied(frames) - at(300, 200))[:, lids, 1].mean(axis=1)
    assert shown.max() > 0.9 * 4.0
    middle = np.arange(len(closed))
    assert (middle * shown).sum() / shown.sum() - (middle * closed).sum() / closed.sum() < 1.5


@given(st.floats(0.2, 5.0), st.floats(-math.pi, math.pi), st.floats(-500, 500), st.floats(-500, 500))
def test_the_filter_does_not_care_where_how_large_and_how_turned_a_face_is(scale, roll, x, y):
    rng = np.random.default_rng(1)
    raw = np.array([at(10 * i, 0) for i in range(8)]) + rng.normal(0, 0.5, (8, 68, 2))
    turn = scale * np.array([[math.cos(roll), -math.sin(roll)], [math.sin(roll), math.cos(roll)]])
    # The longer side of an upright box is not that of a turned one: sizes differ by it, and nothing else.
    moved = steadied(raw @ turn.T + [x, y])
    np.testing.assert_allclose(moved, steadied(raw) @ turn.T + [x, y], atol=0.02 * scale * face_size(FACE))


@pytest.mark.parametrize("points", [np.zeros((68, 2)), np.full((68, 2), 7.0), np.array([[1.0, 2.0]])])
def test_points_that_are_all_one_are_no_trouble(points):
    shown = steadied([points] * 3)
    np.testing.assert_allclose(shown, [points] * 3, atol=1e-6)


# ------------------------------------------------------------------------------------------ the faces


def run(tracks, frames, fps=FPS):
    """Ids frame by frame; None stands for a frame that was lost."""
    ids = []
    for i, points in enumerate(frames):
        if points is None:
            ids.append(None)
            continue
        faces = tracks.update(np.array(points).reshape(-1, 68, 2), i / fps, SIZE)
        ids.append([face.id for face in faces])
    return ids


def test_two_faces_that_pass_each_other_keep_their_numbers():
    frames = [[at(100 + 8 * i, 200), at(560 - 8 * i, 230)][:: 1 if i % 2 else -1] for i in range(50)]
    assert run(Tracks(68, smooth=False), frames) == [[0, 1] if i % 2 == 0 else [1, 0] for i in range(50)]


def test_a_face_behind_another_comes_out_with_its_number():
    hidden = range(20, 34)
    frames = [[at(560 - 8 * i, 220)] + ([] if i in hidden else [at(100 + 8 * i, 200)]) for i in range(50)]
    ids = run(Tracks(68), frames)
    assert {tuple(one) for i, one in enumerate(ids) if i not in hidden} == {(0, 1)}
    assert {tuple(one) for i, one in enumerate(ids) if i in hidden} == {(0,)}


def test_a_face_that_leaves_and_comes_back_keeps_its_number():
    ways = [500 + 12 * i for i in range(12)] + [None] * 40 + [640 - 12 * i for i in range(12)]
    ids = run(Tracks(68), [[] if x is None else [at(x, 200)] for x in ways])
    assert [one for one in ids if one] == [[0]] * 24


def test_a_face_is_forgotten_after_two_seconds_and_not_before():
    frames = [[at(300, 200)]] + [[]] * 59 + [[at(300, 200)]]
    assert run(Tracks(68), frames)[-1] == [0]
    frames = [[at(300, 200)]] + [[]] * 62 + [[at(300, 200)]]
    assert run(Tracks(68), frames)[-1] == [1]


def test_one_frame_a_second_is_enough():
    assert run(Tracks(68), [[at(300 + 20 * i, 200)] for i in range(8)], fps=1.0) == [[0]] * 8
    frames = [[at(300, 200)], [], [], [at(300, 200)]]
    assert run(Tracks(68), frames, fps=1.0)[-1] == [0]


def test_a_face_elsewhere_is_another():
    assert run(Tracks(68), [[at(100, 200)], [at(300, 200)]]) == [[0], [1]]


def test_a_face_of_another_size_at_the_same_place_is_another():
    assert run(Tracks(68), [[at(300, 200)], [at(300, 200, 3.0)]]) == [[0], [1]]


def test_lost_frames_do_not_count_as_not_seen():
    frames = [[at(100 + 4 * i, 200)] if i % 5 else None for i in range(1, 40)]
    ids = run(Tracks(68), frames)
    assert [one for one in ids if one is not None] == [[0]] * sum(frame is not None for frame in frames)


def test_a_face_is_expected_where_its_movement_takes_it():
    tracks = Tracks(68)
    run(tracks, [[at(100 + 4 * i, 200)] for i in range(20)])
    (expected,) = tracks.expected(20 / FPS, SIZE)
    np.testing.assert_allclose(expected, at(180, 200), atol=0.2)
    assert not tracks.lost.any()
    (late,) = tracks.expected(60 / FPS, SIZE)  # and no further than half its size
    np.testing.assert_allclose(late, at(176 + face_size(FACE) / 2, 200), atol=0.5)


def test_a_face_that_left_is_expected_at_the_edge():
    tracks = Tracks(68)
    run(tracks, [[at(580 + 10 * i, 470)] for i in range(7)])
    np.testing.assert_allclose(tracks.expected(1.0, SIZE)[0].mean(axis=0), [640, 470])


def test_time_that_stands_or_runs_backwards_is_survived():
    tracks = Tracks(68)
    for time_s in (0.0, 0.0, 0.1, 0.05):
        (face,) = tracks.update(at(300, 200)[None], time_s, SIZE)
        assert face.id == 0
        np.testing.assert_allclose(face.points, at(300, 200), atol=1e-6)


def test_nothing_is_followed_at_first():
    tracks = Tracks(68)
    assert len(tracks) == 0
    assert tracks.expected(0.0, SIZE).shape == (0, 68, 2)
    assert tracks.match(at(300, 200)[None], 0.0, SIZE).tolist() == [-1]
    assert tracks.update(np.zeros((0, 68, 2)), 0.0, SIZE) == []
