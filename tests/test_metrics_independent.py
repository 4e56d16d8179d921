"""Metrics against what shares no code with them: values worked out by hand, loops, and integrals by brute force."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import integrate
from strategies import point_sets

from cascade_kp.metrics import auc, ced, failure_rate, nme, normaliser, summarise
from cascade_kp.schemes import Scheme, load_scheme

FACE = Scheme(
    "face",
    ("right_eye_outer", "right_eye_inner", "left_eye_inner", "left_eye_outer", "chin"),
    inter_ocular=(0, 3),
    inter_pupil=((0, 1), (2, 3)),
)
# A face drawn on paper, px: eyes on a 3-4-5 slope, so that its lengths are whole numbers. Outer corners (0, 0) and
# (80, 60): 100 apart. Inner corners (16, 12) and (64, 48), 20 from the outer ones: eye centres (8, 6) and (72, 54), 80
# apart. Chin (10, 90): the tight box is 80 x 90.
TRUTH = np.array([[[0, 0], [16, 12], [64, 48], [80, 60], [10, 90]]], dtype=float)
# Off by 5, 13, 0, 10 and 17 px: 45 px in all, 9 px on average.
OFF = np.array([[[3, 4], [-5, 12], [0, 0], [-6, -8], [8, 15]]], dtype=float)

errors_of_faces = st.lists(
    st.floats(0, 0.4, allow_subnormal=False) | st.sampled_from([math.inf, math.nan, 0.08, 0.0]), min_size=1, max_size=25
).filter(lambda errors: not all(map(math.isnan, errors)))
thresholds = st.floats(0.01, 0.3)


@pytest.mark.parametrize(
    ("norm", "unit"), [("inter_ocular", 100.0), ("inter_pupil", 80.0), ("box", math.sqrt(80 * 90))]
)
def test_a_face_on_paper(norm, unit):
    assert normaliser(TRUTH, FACE, norm).tolist() == pytest.approx([unit])
    assert nme(TRUTH + OFF, TRUTH, FACE, norm).tolist() == pytest.approx([9 / unit])
    assert nme(TRUTH + OFF, TRUTH, FACE, norm, points=[1, 4]).tolist() == pytest.approx([15 / unit])


def test_five_faces_on_paper():
    # The face above (0.09), one twice as good, a perfect one, one missed, and one that cannot be normalised.
    broken = TRUTH.copy()
    broken[0, 3] = np.nan
    target = np.concatenate([TRUTH, TRUTH, TRUTH, TRUTH, broken])
    pred = np.concatenate([TRUTH + OFF, TRUTH + OFF / 2, TRUTH, TRUTH * np.nan, TRUTH])
    errors = nme(pred, target, FACE, "inter_ocular")
    np.testing.assert_allclose(errors, [0.09, 0.045, 0.0, math.inf, math.nan])
    got = summarise(errors, 0.1)
    assert got.nme == pytest.approx(0.135 / 3)
    assert got.auc == pytest.approx((0.1 + 0.55 + 1 + 0) / 4)
    assert got.fr == pytest.approx(1 / 4)
    assert (got.n, got.missed, got.excluded) == (5, 1, 1)
    assert summarise(errors).fr == pytest.approx(2 / 4)  # at 0.08


def test_ibug_in_its_own_words():
    # Points 36 and 45 are the outer corners, 0 to 16 the jaw: no scheme is asked for either.
    rng = np.random.default_rng(0)
    truth, pred = rng.uniform(0, 200, (2, 7, 68, 2))
    scheme = load_scheme("ibug68")
    inner = [i for i in range(68) if i not in scheme.regions["jaw"]]
    for face in range(7):
        unit = math.dist(truth[face, 36], truth[face, 45])
        distances = [math.dist(pred[face, k], truth[face, k]) for k in range(68)]
        one = (pred[face : face + 1], truth[face : face + 1], scheme, "inter_ocular")
        assert nme(*one)[0] == pytest.approx(sum(distances) / 68 / unit)
        assert nme(*one, points=inner)[0] == pytest.approx(sum(distances[17:]) / 51 / unit)


@given(point_sets(5, faces=3, missing=True), point_sets(5, faces=3, missing=True))
def test_nme_is_what_a_loop_says(pred, target):
    got = nme(pred, target, FACE, "inter_ocular")
    for face in range(3):
        unit = math.dist(target[face, 0], target[face, 3])
        labelled = [k for k in range(5) if not np.isnan(target[face, k]).any()]
        if not labelled or math.isnan(unit) or unit <= 1e-6:
            assert math.isnan(got[face])
        elif any(np.isnan(pred[face, k]).any() for k in labelled):
            assert got[face] == math.inf
        else:
            mean = math.fsum(math.dist(pred[face, k], target[face, k]) for k in labelled) / len(labelled)
            assert got[face] == pytest.approx(mean / unit, rel=1e-9, abs=1e-12)


@given(errors_of_faces, thresholds)
def test_ced_and_failure_rate_by_counting(errors, threshold):
    scored = [e for e in errors if not math.isnan(e)]
    good = sum(1 for e in scored if e <= threshold)
    assert ced(errors, [threshold])[0] == pytest.approx(good / len(scored))
    assert failure_rate(errors, threshold) == pytest.approx(1 - good / len(scored))


@given(errors_of_faces, thresholds)
def test_auc_by_brute_force(errors, threshold):
    # The curve is looked at in the middle of 2,000 narrow strips: wrong by at most a strip for each jump of the curve.
    strips = 2000
    middles = (np.arange(strips) + 0.5) * threshold / strips
    scored = [e for e in errors if not math.isnan(e)]
    height = [sum(1 for e in scored if e <= x) / len(scored) for x in middles[:: strips // 20]]
    np.testing.assert_allclose(ced(errors, middles[:: strips // 20]), height)
    assert auc(errors, threshold) == pytest.approx(ced(errors, middles).mean(), abs=1 / strips)


def test_auc_of_a_known_distribution():
    # Errors of a Rayleigh distribution: the area under 1 - exp(-x^2 / 2 s^2) is known to any precision.
    spread, limit = 0.03, 0.08
    quantiles = (np.arange(100_000) + 0.5) / 100_000
    errors = spread * np.sqrt(-2 * np.log1p(-quantiles))
    area, _ = integrate.quad(lambda x: 1 - math.exp(-(x**2) / (2 * spread**2)), 0, limit)
    assert auc(errors, limit) == pytest.approx(area / limit, abs=1e-5)
    assert failure_rate(errors, limit) == pytest.approx(math.exp(-(limit**2) / (2 * spread**2)), abs=1e-5)
    assert summarise(errors).nme == pytest.approx(spread * math.sqrt(math.pi / 2), abs=1e-5)


@given(errors_of_faces, thresholds, st.floats(0.5, 3))
def test_auc_only_knows_shares_of_the_threshold(errors, threshold, scale):
    assert auc(np.array(errors) * scale, threshold * scale) == pytest.approx(auc(errors, threshold), abs=1e-9)


@given(errors_of_faces, thresholds)
def test_a_missed_face_costs_its_share(errors, threshold):
    scored = sum(not math.isnan(e) for e in errors)
    more = [*errors, math.inf]
    assert auc(more, threshold) == pytest.approx(auc(errors, threshold) * scored / (scored + 1))
    assert failure_rate(more, threshold) == pytest.approx((failure_rate(errors, threshold) * scored + 1) / (scored + 1))
    # An excluded one costs nothing.
    assert auc([*errors, math.nan], threshold) == pytest.approx(auc(errors, threshold))
