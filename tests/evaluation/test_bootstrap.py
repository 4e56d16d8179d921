"""Bootstrap intervals: against SciPy, against a plain loop over the same draws, and by what they promise."""

from __future__ import annotations

import inspect

import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from cascade_kp.errors import InputError
from cascade_kp.evaluation import bootstrap
from cascade_kp.evaluation.bootstrap import intervals, paired_differences, scores
from cascade_kp.metrics import auc, failure_rate, summarise

AT = 0.08

columns = hnp.arrays(
    np.float64,
    st.tuples(st.integers(1, 25), st.integers(1, 4)),
    elements=st.floats(0, 1) | st.sampled_from([np.inf, np.nan, AT, 0.0]),
)


def errors(n, c=1, seed=0):
    return np.random.default_rng(seed).lognormal(-3.2, 0.6, (n, c))


def holed(n=40, c=3, seed=0):
    """Errors with missed and excluded faces, not the same in each column."""
    values = errors(n, c, seed)
    values[::7] = np.inf
    values[3::11] = np.nan
    values[5, 0], values[6, 1] = np.nan, np.inf
    return values


def drawn(count, resamples, seed):
    """The faces of every resample, one by one: what the counts are made of."""
    counts = np.concatenate(list(bootstrap._resamples(count, resamples, seed)))
    assert counts.shape == (resamples, count)
    return [np.repeat(np.arange(count), row.astype(int)) for row in counts]


class TestScores:
    @given(columns)
    def test_are_those_of_the_metrics(self, values):
        got = scores(values, AT)
        for i, column in enumerate(values.T):
            wanted = summarise(column, AT)
            np.testing.assert_allclose(
                [got.nme[i], got.auc[i], got.fr[i]], [wanted.nme, wanted.auc, wanted.fr], atol=1e-12
            )

    @given(columns, st.integers(0, 9))
    def test_counts_are_faces_that_come_so_often(self, values, seed):
        counts = np.random.default_rng(seed).integers(0, 3, (4, len(values)))
        got = scores(values, AT, counts)
        assert got.nme.shape == (4, values.shape[1])
        for r, row in enumerate(counts):
            again = scores(np.repeat(values, row, axis=0), AT) if row.sum() else None
            for name in ("nme", "auc", "fr"):
                wanted = np.full(values.shape[1], np.nan) if again is None else getattr(again, name)
                np.testing.assert_allclose(getattr(got, name)[r], wanted, atol=1e-6)

    def test_a_threshold_is_met_by_an_error_as_large(self):
        assert scores([[AT], [AT * (1 + 1e-12)]], AT).fr.tolist() == [0.5]

    def test_no_face(self):
        got = scores(np.empty((0, 2)), AT)
        assert all(field.shape == (2,) and np.isnan(field).all() for field in got)


class TestIntervals:
    def test_agrees_with_scipy(self):
        values = errors(150)
        values[::20] = np.inf  # a missed face is a failure; the mean is over the others
        got = intervals(values, AT, resamples=20_000)
        statistics = {
            "nme": lambda x: x[np.isfinite(x)].mean(),
            "auc": lambda x: auc(x, AT),
            "fr": lambda x: failure_rate(x, AT),
        }
        # SciPy 1.15 renamed it.
        known = inspect.signature(scipy.stats.bootstrap).parameters
        generator = {"rng" if "rng" in known else "random_state": np.random.default_rng(7)}
        for name, statistic in statistics.items():
            theirs = scipy.stats.bootstrap(
                (values[:, 0],),
                statistic,
                n_resamples=4000,
                vectorized=False,
                method="percentile",
                **generator,
            ).confidence_interval
            ends = getattr(got, name)[:, 0]
            # Two runs differ by chance: a few hundredths of the interval's length at 4,000 resamples.
            np.testing.assert_allclose(ends, [theirs.low, theirs.high], atol=0.06 * np.ptp(ends) + 1e-9, err_msg=name)

    @pytest.mark.parametrize("seed", [0, 5])
    def test_agrees_with_a_plain_loop_over_the_same_draws(self, seed):
        values = holed()
        got = intervals(values, AT, resamples=300, seed=seed)
        plain = [[summarise(values[rows, c], AT) for c in range(3)] for rows in drawn(len(values), 300, seed)]
        for name in ("nme", "auc", "fr"):
            table = np.array([[getattr(summary, name) for summary in row] for row in plain])
            np.testing.assert_allclose(getattr(got, name), np.quantile(table, [0.025, 0.975], axis=0), atol=2e-6)

    def test_every_resample_is_a_draw_with_replacement(self):
        counts = np.concatenate(list(bootstrap._resamples(50, 40_000, 3)))
        assert (counts.sum(axis=1) == 50).all()
        # Binomial(50, 1/50) for every face, and no two resamples the same.
        np.testing.assert_allclose(counts.mean(axis=0), 1, atol=0.03)
        np.testing.assert_allclose(counts.var(axis=0), 49 / 50, atol=0.05)
        np.testing.assert_allclose((counts == 0).mean(), (1 - 1 / 50) ** 50, atol=0.003)
        assert len(np.unique(counts[:6100], axis=0)) == 6100

    def test_resamples_come_in_any_number(self, monkeypatch):
        whole = intervals(errors(60, 2), AT, resamples=1001)
        for draws in (1, 59, 60, 61, 60 * 1000, 60 * 1001, 10**7):
            monkeypatch.setattr(bootstrap, "_CHUNK_DRAWS", draws)
            assert len(np.concatenate(list(bootstrap._resamples(60, 1001, 0)))) == 1001
        part = intervals(errors(60, 2), AT, resamples=1001)
        np.testing.assert_allclose(part, whole, rtol=1e-5)

    def test_a_seed_gives_one_interval(self):
        values = errors(80, 2)
        first, second, other = (np.array(intervals(values, AT, resamples=500, seed=seed)) for seed in (1, 1, 2))
        np.testing.assert_array_equal(first, second)
        assert (first != other).any()

    def test_a_column_does_not_depend_on_its_neighbours(self):
        values = holed(c=4)
        whole = intervals(values, AT, resamples=400)
        alone = intervals(values[:, 2:3], AT, resamples=400)
        for field, part in zip(whole, alone, strict=True):
            np.testing.assert_allclose(field[:, 2:3], part, atol=1e-6)

    def test_scale_and_order(self):
        values = errors(50)
        got, wide = intervals(values, AT, resamples=500), intervals(values * 10, AT * 10, resamples=500)
        np.testing.assert_allclose(wide.nme, got.nme * 10, rtol=1e-5)
        np.testing.assert_allclose([wide.auc, wide.fr], [got.auc, got.fr], atol=1e-6)
        for low, high in (field[:, 0] for field in got):
            assert low <= high

    def test_the_level_is_the_share_inside(self):
        values = errors(100)
        means = np.array([values[rows].mean() for rows in drawn(100, 2000, 0)])
        for level in (0.5, 0.9, 0.99):
            low, high = intervals(values, AT, resamples=2000, level=level).nme[:, 0]
            assert ((means >= low - 1e-7) & (means <= high + 1e-7)).mean() == pytest.approx(level, abs=2e-3)

    def test_one_face(self):
        for value, wanted in [
            (0.02, (0.02, 0.75, 0.0)),
            (0.5, (0.5, 0.0, 1.0)),
            (np.inf, (np.nan, 0.0, 1.0)),
            (np.nan, (np.nan,) * 3),
        ]:
            got = intervals([[value]], AT, resamples=50)
            for field, number in zip(got, wanted, strict=True):
                np.testing.assert_allclose(field[:, 0], [number, number], atol=1e-6)

    def test_no_face_and_no_column(self):
        got = intervals(np.empty((0, 2)), AT, resamples=10)
        assert all(field.shape == (2, 2) and np.isnan(field).all() for field in got)

    def test_columns_without_any_answer(self):
        values = np.concatenate([errors(20, 1), np.full((20, 1), np.inf), np.full((20, 1), np.nan)], axis=1)
        got = intervals(values, AT, resamples=200)
        assert np.isfinite(got.nme[:, 0]).all()
        assert np.isnan(got.nme[:, 1:]).all()
        np.testing.assert_array_equal([got.auc[:, 1], got.fr[:, 1]], [[0, 0], [1, 1]])
        assert np.isnan([got.auc[:, 2], got.fr[:, 2]]).all()

    def test_a_resample_without_a_face_to_score_does_not_count(self):
        # One of three faces can be scored: 8 of 27 resamples hold none of it, and the others all say the same.
        got = intervals([[0.04], [np.nan], [np.nan]], AT, resamples=500)
        np.testing.assert_allclose(got.nme[:, 0], 0.04, rtol=1e-6)
        np.testing.assert_allclose(got.auc[:, 0], 0.5, rtol=1e-6)

    def test_the_true_mean_is_inside_as_often_as_promised(self):
        rng = np.random.default_rng(11)
        inside, runs = 0, 300
        for seed in range(runs):
            low, high = intervals(rng.normal(0.05, 0.01, (60, 1)), AT, resamples=400, seed=seed).nme[:, 0]
            inside += low <= 0.05 <= high
        assert 0.90 <= inside / runs <= 0.985  # 95 %; a percentile interval of 60 faces is a little short

    @pytest.mark.parametrize(
        ("values", "settings", "message"),
        [
            ([0.1, 0.2], {}, r"\(N, C\).* got \(2,\)"),
            (np.zeros((2, 2, 2)), {}, r"got \(2, 2, 2\)"),
            ([[0.1]], {"resamples": 0}, "resamples: expected .* got 0"),
            ([[0.1]], {"resamples": 10.0}, r"got 10\.0"),
            ([[0.1]], {"resamples": True}, "got True"),
            ([[0.1]], {"level": 1.0}, r"level: .* got 1\.0"),
            ([[0.1]], {"level": 0}, "got 0"),
            ([[0.1]], {"level": np.nan}, "got nan"),
        ],
    )
    def test_refuses(self, values, settings, message):
        with pytest.raises(InputError, match=message):
            intervals(values, AT, **settings)


class TestPairedDifferences:
    def test_agrees_with_a_plain_loop_over_the_same_draws(self):
        before, after = holed(seed=1), holed(seed=2)
        after[9], before[12, 0] = np.inf, np.nan
        got = paired_differences(before, after, AT, resamples=200, seed=4)
        assert got.nme.shape == (200, 3)
        for r, rows in enumerate(drawn(len(before), 200, 4)):
            for c in range(3):
                one, two = before[rows, c], after[rows, c]
                both = np.isfinite(one) & np.isfinite(two)
                wanted = [
                    two[both].mean() - one[both].mean(),
                    auc(two, AT) - auc(one, AT),
                    failure_rate(two, AT) - failure_rate(one, AT),
                ]
                np.testing.assert_allclose([field[r, c] for field in got], wanted, atol=2e-6)

    def test_the_same_errors_never_differ(self):
        for field in paired_differences(holed(), holed(), AT, resamples=100):
            np.testing.assert_array_equal(field, np.zeros((100, 3)))

    def test_what_all_faces_gain_is_known_for_sure(self):
        before = errors(100)
        got = paired_differences(before, before + 0.01, AT, resamples=100)
        np.testing.assert_allclose(got.nme, 0.01, atol=1e-6)

    def test_nothing_in_common(self):
        got = paired_differences([[0.1], [np.inf]], [[np.inf], [0.1]], AT, resamples=50)
        assert np.isnan(got.nme).all()
        assert np.isfinite(got.fr).all()

    @pytest.mark.parametrize(
        ("before", "after", "message"),
        [
            (np.zeros((3, 1)), np.zeros((2, 1)), r"same faces.*\(3, 1\) and \(2, 1\)"),
            (np.zeros((3, 1)), np.zeros((3, 2)), "same faces"),
            (np.zeros((0, 1)), np.zeros((0, 1)), "at least one"),
            (np.zeros(3), np.zeros(3), r"\(N, C\)"),
        ],
    )
    def test_refuses(self, before, after, message):
        with pytest.raises(InputError, match=message):
            paired_differences(before, after, AT)
