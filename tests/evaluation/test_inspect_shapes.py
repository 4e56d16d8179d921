"""Faces laid onto their mean, what is judged together, and which exchanges are known."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from protocol_case import IBUG, KAGGLE
from strategies import made_schemes

from cascade_kp.data.synthetic import mean_face
from cascade_kp.evaluation.inspect_shapes import calibrated, lay, shapes, symmetric
from cascade_kp.evaluation.inspect_surprise import blocks, model_surprise, surprise, swaps, wrong_points
from cascade_kp.schemes import Scheme, convert


def made(count, seed=0, scheme=IBUG, noise=0.01):
    """Faces of one shape, moved, turned and scaled, with noise in sides of the face; and where they lie."""
    rng = np.random.default_rng(seed)
    shape = convert(mean_face(), IBUG, scheme)
    shape = shape + rng.normal(0, noise * np.ptp(shape, axis=0).max(), (count, *shape.shape))
    turn = rng.uniform(40, 90, count) * np.exp(1j * rng.uniform(-0.4, 0.4, count))
    shift = rng.uniform(100, 300, count) + 1j * rng.uniform(100, 300, count)
    flat = (shape[..., 0] + 1j * shape[..., 1]) * turn[:, None] + shift[:, None]
    return np.stack([flat.real, flat.imag], axis=-1), turn


# ---------------------------------------------------------------------------------------------- laying


def test_faces_without_noise_fall_onto_each_other():
    points, turn = made(12, noise=0)
    found = lay(points, IBUG)
    np.testing.assert_allclose(found.points, np.broadcast_to(found.mean, points.shape), atol=1e-9)
    assert np.ptp(found.mean, axis=0).max() == pytest.approx(1)
    np.testing.assert_allclose(found.mean.min(axis=0), -found.mean.max(axis=0), atol=1e-9)
    # The mean face is its own mirror image, so it stands upright whatever the faces do.
    np.testing.assert_allclose(found.rolls, np.degrees(np.angle(turn)), atol=1e-6)


def test_turns_and_shifts_lead_back_to_the_picture():
    points, _ = made(6)
    found = lay(points, IBUG)
    flat = (found.points[..., 0] + 1j * found.points[..., 1]) * found.turns[:, None] + found.shifts[:, None]
    np.testing.assert_allclose(np.stack([flat.real, flat.imag], axis=-1), points, atol=1e-9)


def test_one_wrong_label_does_not_move_the_others():
    points, _ = made(20, noise=0.002)
    before = lay(points, IBUG)
    points[4, 8] += 80
    after = lay(points, IBUG)
    others = np.arange(68) != 8
    assert np.abs(after.points[4, others] - before.points[4, others]).max() < 0.006
    assert np.abs(after.mean - before.mean).max() < 0.003


def test_a_symmetric_mean_mirrors_onto_itself():
    rng = np.random.default_rng(0)
    mean = mean_face() + rng.normal(0, 0.03, (68, 2))
    mean[7] = np.nan
    even = symmetric(mean, IBUG)
    np.testing.assert_allclose(even[list(IBUG.flip)] * [-1, 1], even, atol=1e-12)
    assert not np.isnan(even).any()


def test_faces_that_cannot_be_laid():
    points, _ = made(6)
    points[0] = np.nan
    points[1, 1:] = np.nan
    points[2] = 5.0
    found = lay(points, IBUG)
    assert np.isnan(found.points[:3]).all()
    assert np.isnan(found.turns[:3]).all()
    assert np.isfinite(found.points[3:]).all()
    nobody = shapes(np.full((3, 68, 2), np.nan), IBUG)
    assert np.isnan(nobody.mean).all()
    assert np.isnan(surprise(np.full((3, 68, 2), np.nan), nobody, IBUG).total).all()


# ---------------------------------------------------------------------------------------------- distribution


def test_the_distribution_is_that_of_the_faces_in_spite_of_holes():
    points, _ = made(400, noise=0.02)
    whole = shapes(points, IBUG)
    rng = np.random.default_rng(1)
    holes = points.copy()
    for region in ("nose", "mouth"):
        holes[np.ix_(rng.random(400) < 0.5, IBUG.region(region))] = np.nan
    part = shapes(holes, IBUG)
    np.testing.assert_allclose(part.mean, whole.mean, atol=0.004)
    spread, other = (np.sqrt(np.diag(one.covariance)) for one in (whole, part))
    np.testing.assert_allclose(other, spread, rtol=0.15)
    assert np.median(spread) == pytest.approx(0.02, rel=0.15)


def test_wrong_labels_do_not_widen_the_distribution():
    points, _ = made(200, noise=0.01)
    before = np.sqrt(np.diag(shapes(points, IBUG).covariance))
    points[:10] = points[:10][:, list(IBUG.flip)]
    points[10:20, 30] += 30
    after = np.sqrt(np.diag(shapes(points, IBUG).covariance))
    assert (after / before).max() < 1.3


def test_a_rare_point_is_told_and_a_point_of_nobody_is_not():
    points, _ = made(40)
    points[2:, 3] = np.nan
    points[:, 5] = np.nan
    found = shapes(points, IBUG)
    assert np.isfinite(found.mean[3]).all()
    assert np.isnan(found.mean[5]).all()
    assert np.isfinite(np.diag(found.covariance)[[6, 7]]).all()
    assert np.isnan(found.covariance[10:12]).all()


def test_calibrated_columns_have_median_zero_and_width_one():
    rng = np.random.default_rng(0)
    values = calibrated(rng.normal(5, 2, (4000, 3)) * [1, 10, 0.1])
    np.testing.assert_allclose(np.median(values, axis=0), 0, atol=1e-9)
    np.testing.assert_allclose(values.std(axis=0), 1, atol=0.05)
    assert np.isnan(calibrated(np.full((3, 1), np.nan))).all()


# ---------------------------------------------------------------------------------------------- parts of a scheme


@given(made_schemes())
@settings(max_examples=150, deadline=None)
def test_every_exchange_undoes_itself(scheme):
    for swap in swaps(scheme):
        order = np.array(swap.order)
        assert sorted(order.tolist()) == list(range(len(scheme)))
        np.testing.assert_array_equal(order[order], np.arange(len(scheme)))
        assert (order != np.arange(len(scheme))).any()
    assert len({swap.order for swap in swaps(scheme)}) == len(swaps(scheme))
    names = [block.name for block in blocks(scheme)]
    assert len(set(names)) == len(names)
    assert names[: len(scheme)] == list(scheme.keypoints)


def test_the_blocks_of_ibug():
    found = {block.name: block.points for block in blocks(IBUG)}
    assert found["right eye".replace(" ", "_")] == IBUG.region("right_eye")
    assert found["right_eye (6 points)"] == tuple(range(36, 42))
    assert found["right_eyebrow"] == tuple(range(17, 22))


# ---------------------------------------------------------------------------------------------- judging


@pytest.mark.parametrize("scheme", [IBUG, KAGGLE])
def test_a_shifted_point_is_the_first_and_named(scheme):
    points, _ = made(150, scheme=scheme)
    side = np.ptp(points[40], axis=0).max()
    points[40, 10] += [0.09 * side, 0.05 * side]
    found = shapes(points, scheme)
    judged = surprise(points, found, scheme)
    assert int(np.nanargmax(judged.total)) == 40
    assert judged.tests[int(np.nanargmax(judged.scores[40]))].name == scheme.keypoints[10]
    assert wrong_points(40, found) == (10,)
    assert judged.swaps[40] is None


@given(st.integers(0, 40))
@settings(max_examples=12, deadline=None)
def test_every_exchange_of_ibug_is_named(number):
    every = swaps(IBUG)
    swap = every[number % len(every)]
    points, _ = made(80, noise=0.004)
    points[3] = points[3][list(swap.order)]
    judged = surprise(points, shapes(points, IBUG), IBUG)
    chosen = judged.swaps[3]
    assert int(np.nanargmax(judged.total)) == 3
    assert chosen is not None
    assert chosen.order == swap.order
    assert all(other is None for i, other in enumerate(judged.swaps) if i != 3)


def test_an_exchange_with_missing_labels():
    points, _ = made(80, noise=0.006)
    points[5] = points[5][list(IBUG.flip)]
    points[5, [20, 21, 50]] = np.nan
    points[::7, 36:42] = np.nan
    judged = surprise(points, shapes(points, IBUG), IBUG)
    chosen = judged.swaps[5]
    assert chosen is not None
    assert chosen.text == "left and right of the whole face are exchanged"


def test_a_model_names_what_is_off():
    found, _ = made(60, noise=0.01)
    rng = np.random.default_rng(0)
    sigma = np.full((60, 68), 1.5)
    labels = found + rng.normal(0, 1.0, found.shape)
    labels[4] = labels[4][list(IBUG.flip)]
    labels[9, 30] += 20
    labels[11, list(IBUG.region("mouth"))] += 12
    labels[13, 2:] = np.nan
    judged = model_surprise(labels, found, sigma, IBUG)
    order = np.argsort(-np.nan_to_num(judged.total))
    assert order[0] == 4
    assert set(order[:3].tolist()) == {4, 9, 11}
    assert judged.swaps[4] is not None
    assert sum(swap is not None for swap in judged.swaps) == 1
    assert judged.tests[int(np.nanargmax(judged.scores[9]))].name == IBUG.keypoints[30]
    assert judged.tests[int(np.nanargmax(judged.scores[11]))].name.startswith("mouth")
    unknown = model_surprise(labels[:0], found[:0], sigma[:0], IBUG)
    assert unknown.total.shape == (0,)


def test_a_scheme_of_one_point_has_nothing_to_exchange():
    assert swaps(Scheme("one", ("tip",))) == ()
    assert [block.name for block in blocks(Scheme("one", ("tip",)))] == ["tip"]
