from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from strategies import point_sets

from cascade_kp.errors import InputError
from cascade_kp.metrics import Summary, auc, ced, failure_rate, nme, normaliser, point_errors, summarise
from cascade_kp.schemes import Scheme, load_scheme

# Two eyes and a nose. The true face: eyes at (0, 0) and (10, 0), nose at (4, 6).
TOY = Scheme(
    "toy",
    ("right_eye", "left_eye", "nose"),
    regions={"nose": (2,)},
    inter_ocular=(0, 1),
    inter_pupil=((0,), (1,)),
)
TRUTH = np.array([[[0.0, 0], [10, 0], [4, 6]]])
# Off by (3, 4) -> 5 px, by (0, 1) -> 1 px, by (0, 0) -> 0 px: 6 px in all, 2 px on average.
GUESS = TRUTH + np.array([[3, 4], [0, 1], [0, 0]])

per_face = hnp.arrays(
    np.float64, st.integers(1, 30), elements=st.floats(0, 1) | st.sampled_from([math.inf, math.nan, 0.08])
)


def refusal(function, *args):
    """All that a user reads."""
    with pytest.raises(InputError) as caught:
        function(*args)
    return str(caught.value)


class TestNme:
    @pytest.mark.parametrize(
        ("norm", "expected"),
        [
            ("inter_ocular", 2 / 10),  # 2 px over 10 px between the eyes
            ("inter_pupil", 2 / 10),
            ("box", 2 / math.sqrt(10 * 6)),  # the tight box is 10 x 6
        ],
    )
    def test_by_hand(self, norm, expected):
        np.testing.assert_allclose(nme(GUESS, TRUTH, TOY, norm), [expected])

    def test_points_by_hand(self):
        np.testing.assert_allclose(point_errors(GUESS, TRUTH, TOY, "inter_ocular"), [[0.5, 0.1, 0.0]])

    def test_a_subset_keeps_the_normaliser_of_the_whole(self):
        np.testing.assert_allclose(nme(GUESS, TRUTH, TOY, "box", points=[0]), [5 / math.sqrt(60)])
        np.testing.assert_allclose(nme(GUESS, TRUTH, TOY, "inter_ocular", points=TOY.region("nose")), [0.0])
        np.testing.assert_allclose(point_errors(GUESS, TRUTH, TOY, "inter_ocular", points=[2, 0]), [[0.0, 0.5]])

    def test_ibug_pupils_are_means_of_six(self):
        scheme = load_scheme("ibug68")
        truth = np.zeros((1, 68, 2))
        truth[0, 36:42, 0] = [0, 1, 2, 3, 2, 1]  # mean 1.5
        truth[0, 42:48, 0] = [20, 21, 22, 23, 22, 21]  # mean 21.5
        np.testing.assert_allclose(normaliser(truth, scheme, "inter_pupil"), [20])
        np.testing.assert_allclose(normaliser(truth, scheme, "inter_ocular"), [23])

    def test_unlabelled_points_are_skipped(self):
        truth = TRUTH.copy()
        truth[0, 2, 1] = np.nan  # half a label is none
        np.testing.assert_allclose(nme(GUESS, truth, TOY, "inter_ocular"), [3 / 10])  # mean of 5 and 1
        assert np.isnan(point_errors(GUESS, truth, TOY, "inter_ocular")[0, 2])

    def test_box_is_that_of_the_labelled_points(self):
        truth = np.array([[[0.0, 0], [10, 10], [np.nan, np.nan]]])
        np.testing.assert_allclose(normaliser(truth, TOY, "box"), [10])
        truth[0, 2] = [np.nan, 90]  # half a label is none
        np.testing.assert_allclose(normaliser(truth, TOY, "box"), [10])

    def test_faces_that_cannot_be_scored_are_nan(self):
        no_eye, no_label, no_distance = TRUTH.copy(), np.full_like(TRUTH, np.nan), TRUTH.copy()
        no_eye[0, 0] = np.nan
        no_distance[0, 1] = no_distance[0, 0]
        truth = np.concatenate([no_eye, no_label, no_distance, TRUTH])
        got = nme(np.repeat(GUESS, 4, axis=0), truth, TOY, "inter_ocular")
        np.testing.assert_allclose(got, [np.nan, np.nan, np.nan, 0.2])
        assert np.isnan(nme(GUESS, no_label, TOY, "box")).all()
        flat = TRUTH * [1, 0]  # a box without height
        assert np.isnan(nme(GUESS, flat, TOY, "box")).all()

    def test_no_label_in_the_subset_is_nan(self):
        truth = TRUTH.copy()
        truth[0, 2] = np.nan
        assert np.isnan(nme(GUESS, truth, TOY, "inter_ocular", points=[2])).all()

    @pytest.mark.parametrize("lost", [np.nan, np.inf, -np.inf])
    def test_a_missing_prediction_is_a_failure(self, lost):
        guess = GUESS.copy()
        guess[0, 1, 0] = lost
        assert nme(guess, TRUTH, TOY, "inter_ocular").tolist() == [math.inf]
        np.testing.assert_allclose(point_errors(guess, TRUTH, TOY, "inter_ocular"), [[0.5, math.inf, 0.0]])
        # ... only where there is a label, and only where it is scored.
        truth = TRUTH.copy()
        truth[0, 2] = np.nan
        guess = GUESS.copy()
        guess[0, 2] = lost
        np.testing.assert_allclose(nme(guess, truth, TOY, "inter_ocular"), [0.3])
        np.testing.assert_allclose(nme(guess, TRUTH, TOY, "inter_ocular", points=[0]), [0.5])

    def test_undetected_face_that_cannot_be_normalised_is_excluded(self):
        assert np.isnan(nme(TRUTH * np.nan, TRUTH * 0, TOY, "inter_ocular")).all()

    def test_no_faces(self):
        assert nme(np.zeros((0, 3, 2)), np.zeros((0, 3, 2)), TOY, "box").shape == (0,)

    @given(point_sets(3, faces=4), point_sets(3, faces=4, missing=True), st.floats(0.1, 50), st.integers(-300, 300))
    def test_free_of_scale_and_place(self, pred, target, scale, shift):
        for norm in ("inter_ocular", "box"):
            fit = normaliser(target, TOY, norm) >= 1  # the others may be on either side of "no face at all"
            before = nme(pred, target, TOY, norm)
            after = nme(pred * scale + shift, target * scale + shift, TOY, norm)
            np.testing.assert_allclose(after[fit], before[fit], rtol=1e-6, atol=1e-6)

    @given(point_sets(3, faces=2, missing=True))
    def test_perfect_is_zero(self, target):
        got = nme(np.nan_to_num(target), target, TOY, "inter_ocular")
        assert set(got[~np.isnan(got)]) <= {0.0}

    @given(point_sets(3, faces=5), point_sets(3, faces=5, missing=True))
    def test_is_the_mean_of_point_errors(self, pred, target):
        errors = point_errors(pred, target, TOY, "inter_ocular")
        for face, error in zip(errors, nme(pred, target, TOY, "inter_ocular"), strict=True):
            labelled = face[~np.isnan(face)]
            np.testing.assert_allclose(error, labelled.mean() if labelled.size else np.nan)

    def test_inputs_stay_as_they_are(self):
        guess, truth = GUESS.copy(), TRUTH.copy()
        truth[0, 2, 1] = guess[0, 0, 0] = np.nan
        before = guess.copy(), truth.copy()
        nme(guess, truth, TOY, "box")
        np.testing.assert_array_equal((guess, truth), before)

    def test_is_float64_whatever_comes(self):
        rng = np.random.default_rng(0)
        guess, truth = rng.uniform(0, 100, (2, 4, 3, 2)).astype(np.float32)
        exact = nme(guess.astype(np.float64), truth.astype(np.float64), TOY, "box")
        for got in (nme(guess, truth, TOY, "box"), nme(guess.tolist(), truth.tolist(), TOY, "box")):
            assert got.dtype == np.float64
            np.testing.assert_array_equal(got, exact)
        assert normaliser(truth, TOY, "inter_ocular").dtype == np.float64
        np.testing.assert_allclose(nme(GUESS.astype(int), TRUTH.astype(int), TOY, "inter_ocular"), [0.2])

    @pytest.mark.parametrize(
        ("args", "message"),
        [
            ((GUESS, TRUTH[0], TOY, "box"), "target must be (N, 3, 2) for scheme 'toy', got (3, 2)"),
            ((GUESS, TRUTH[None], TOY, "box"), "target must be (N, 3, 2) for scheme 'toy', got (1, 1, 3, 2)"),
            ((GUESS, 3.0, TOY, "box"), "target must be (N, 3, 2) for scheme 'toy', got ()"),
            (
                (GUESS, TRUTH, load_scheme("kaggle15"), "box"),
                "target must be (N, 15, 2) for scheme 'kaggle15', got (1, 3, 2)",
            ),
            (
                (GUESS, np.full((1, 3, 2), np.inf), TOY, "box"),
                "target must be finite, or NaN where not labelled, got an infinite coordinate",
            ),
            (
                (GUESS[:, :2], TRUTH, TOY, "box"),
                "pred must have the shape of target, (1, 3, 2), got (1, 2, 2)",
            ),
            ((GUESS, TRUTH, TOY, "diagonal"), "norm must be one of inter_ocular, inter_pupil, box, got 'diagonal'"),
            ((GUESS, TRUTH, TOY, None), "norm must be one of inter_ocular, inter_pupil, box, got None"),
            *(
                (
                    (GUESS, TRUTH, Scheme("bare", ("a", "b", "c")), norm),
                    f"norm {norm!r} needs a scheme that defines it, got 'bare', which does not",
                )
                for norm in ("inter_ocular", "inter_pupil")
            ),
            *(
                ((GUESS, TRUTH, TOY, "box", points), f"points must be a non-empty list of indices, got {points}")
                for points in ([], [[0]], 0, [True, False, True], [0.0])
            ),
            ((GUESS, TRUTH, TOY, "box", [1, 3]), "points must be from 0 to 2, got 1 to 3"),
            ((GUESS, TRUTH, TOY, "box", [0, -1]), "points must be from 0 to 2, got -1 to 0"),
            ((GUESS, TRUTH, TOY, "box", [1, 1]), "points must be all different, got [1, 1]"),
        ],
    )
    def test_refuses(self, args, message):
        assert refusal(nme, *args) == message

    def test_norm_has_no_default(self):
        with pytest.raises(TypeError):
            nme(GUESS, TRUTH, TOY)


class TestCurves:
    ERRORS = (0.0, 0.04, 0.08, 0.2)

    def test_auc_by_hand(self):
        # 1 - 0/8 = 1, 1 - 4/8 = 0.5, 1 - 8/8 = 0, and 0.2 is clipped to 0: 1.5 / 4.
        assert auc(self.ERRORS, 0.08) == pytest.approx((1 + 0.5 + 0 + 0) / 4)

    def test_failure_rate_by_hand(self):
        assert failure_rate(self.ERRORS, 0.08) == 1 / 4  # 0.08 itself is none
        assert failure_rate(self.ERRORS, 0.07) == 2 / 4

    def test_ced_by_hand(self):
        np.testing.assert_array_equal(ced(self.ERRORS, [0, 0.04, 0.079, 0.08, 1]), [0.25, 0.5, 0.5, 0.75, 1])

    def test_missed_counts_and_excluded_does_not(self):
        errors = [*self.ERRORS, math.inf, math.nan]
        assert auc(errors, 0.08) == pytest.approx(1.5 / 5)
        assert failure_rate(errors, 0.08) == pytest.approx(2 / 5)
        np.testing.assert_allclose(ced(errors, [0.08, 1, math.inf]), [3 / 5, 4 / 5, 4 / 5])

    def test_nothing_to_score(self):
        for errors in ([], [math.nan]):
            assert math.isnan(auc(errors, 0.08))
            assert math.isnan(failure_rate(errors, 0.08))
            assert np.isnan(ced(errors, [0.1, 0.2])).all()

    @given(per_face, st.floats(0.01, 0.5))
    def test_auc_is_the_area_under_the_ced(self, errors, threshold):
        assume(not np.isnan(errors).all())
        # The CED is a staircase: its area is exact when summed between the errors.
        inside = np.unique(errors[errors < threshold])
        edges = np.concatenate([[0.0], inside, [threshold]])
        area = float((ced(errors, edges[:-1]) * np.diff(edges)).sum()) / threshold
        assert auc(errors, threshold) == pytest.approx(area, abs=1e-9)

    @given(per_face, st.floats(0.01, 0.5))
    def test_ced_rises_and_ends_beside_the_failure_rate(self, errors, threshold):
        assume(not np.isnan(errors).all())
        curve = ced(errors, np.linspace(0, threshold, 7))
        assert (np.diff(curve) >= 0).all()
        assert ced(errors, [threshold])[0] + failure_rate(errors, threshold) == pytest.approx(1)

    def test_are_float64_whatever_comes(self):
        errors = np.random.default_rng(0).uniform(0, 0.2, 20).astype(np.float32)
        exact = errors.astype(np.float64)
        assert auc(errors, 0.08) == auc(exact, 0.08) == auc(exact.tolist(), 0.08)
        assert summarise(errors).nme == summarise(exact).nme
        assert failure_rate([0, 1], 1) == 0.0

    @pytest.mark.parametrize("threshold", [0, -1, math.nan, math.inf])
    def test_refuses_thresholds(self, threshold):
        for metric in (auc, failure_rate, summarise):
            message = f"threshold must be a positive fraction such as 0.08, got {threshold}"
            assert refusal(metric, [0.1], threshold) == message

    @pytest.mark.parametrize(
        ("errors", "message"),
        [
            ([[0.1, 0.2]], "errors must be (N,), one per face, got (1, 2)"),
            (0.1, "errors must be (N,), one per face, got ()"),
            ([0.3, -0.1, -0.2], "errors must not be negative, got -0.2"),
            ([-0.1, math.nan, math.inf], "errors must not be negative, got -0.1"),
        ],
    )
    def test_refuses_errors(self, errors, message):
        for metric in (auc, failure_rate, summarise):
            assert refusal(metric, errors, 0.08) == message
        assert refusal(ced, errors, [0.08]) == message

    @pytest.mark.parametrize(("thresholds", "shape"), [([[0.1]], "(1, 1)"), (0.1, "()"), ([0.1, math.nan], "(2,)")])
    def test_refuses_thresholds_of_the_curve(self, thresholds, shape):
        message = f"thresholds must be (T,) without NaN, got shape {shape}"
        assert refusal(ced, [0.1], thresholds) == refusal(ced, [], thresholds) == message


class TestSummary:
    def test_by_hand(self):
        got = summarise([0.0, 0.04, 0.08, 0.2, math.inf, math.nan])
        # Found: 0.32 in all over 4; scored: those 4 and the missed one.
        assert got.nme == pytest.approx(0.08)
        assert got.auc == pytest.approx(1.5 / 5)
        assert got.fr == pytest.approx(2 / 5)
        assert (got.n, got.missed, got.excluded, got.threshold) == (6, 1, 1, 0.08)
        assert str(got) == "NME 8.00 %, AUC@0.08 30.00 %, FR@0.08 40.00 %, n 6, missed 1, excluded 1"

    def test_counts_that_are_zero_are_not_printed(self):
        assert str(summarise([0.04], 0.1)) == "NME 4.00 %, AUC@0.1 60.00 %, FR@0.1 0.00 %, n 1"

    def test_nothing_found(self):
        got = summarise([math.inf, math.nan])
        assert math.isnan(got.nme)
        assert (got.auc, got.fr, got.missed, got.excluded) == (0.0, 1.0, 1, 1)

    def test_frozen(self):
        with pytest.raises(dataclasses.FrozenInstanceError):
            summarise([0.1]).n = 3
        assert isinstance(summarise([]), Summary)
