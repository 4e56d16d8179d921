"""Where the time goes: what is watched is added up, also where it fails."""

import pytest

pytest.importorskip("benchmarks.breakdown", reason="needs the checkout's benchmarks: python -m pytest in its root")

from benchmarks import breakdown


def test_time_is_added_to_the_part():
    spent = {"crop": 1.0}
    watched = breakdown.watched(lambda a, b: a + b, "crop", spent)
    assert watched(1, b=2) == 3
    assert spent["crop"] > 1.0


def test_time_is_added_where_it_fails():
    spent = {"crop": 0.0}

    def fails():
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        breakdown.watched(fails, "crop", spent)()
    assert spent["crop"] > 0.0


def test_what_is_watched_is_there():
    # By these names it also tells of older checkouts.
    assert callable(breakdown.geometry.working_crop)
    assert callable(breakdown.geometry.sample)
    assert callable(breakdown.OnnxNet.forward)
