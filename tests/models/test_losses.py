from __future__ import annotations

import itertools
import math

import pytest
import torch

from cascade_kp.models.losses import distance_nll, wing


def one(x, y):
    """(1, 1, 2)."""
    return torch.tensor([[[x, y]]])


class TestWing:
    def test_by_hand(self):
        # Width 0.04, curvature 0.008: an error of 0.004 is 0.04 ln(1 + 0.5) = 0.0162186; one of 0.1 is beyond the
        # width: 0.1 - 0.04 (1 - ln 6) = 0.06 + 0.04 * 1.7917595 = 0.1316704. The mean of the two is 0.0739445.
        got = wing(one(0.504, 0.4), one(0.5, 0.5))
        assert float(got) == pytest.approx(0.0739445, abs=1e-6)

    def test_by_hand_with_other_settings(self):
        # 10 and 2: an error of 3 is 10 ln 2.5 = 9.1629073; one of 12 is 12 - 10 (1 - ln 6) = 19.9175947.
        got = wing(one(3.0, -12.0), one(0.0, 0.0), width=10, curvature=2)
        assert float(got) == pytest.approx((9.1629073 + 19.9175947) / 2, rel=1e-6)

    @pytest.mark.parametrize(("width", "curvature"), [(0.04, 0.008), (10.0, 2.0), (0.1, 0.5)])
    def test_continuous_at_the_width(self, width, curvature):
        low, high = (wing(one(width * f, 0.0), one(0.0, 0.0), width, curvature) for f in (1 - 1e-5, 1 + 1e-5))
        assert float(low) < float(high)
        assert float(high) == pytest.approx(float(low), rel=1e-4)

    def test_zero_is_the_least_and_more_error_is_more_loss(self):
        errors = torch.linspace(0, 0.2, 101).tolist()
        values = [float(wing(one(e, 0.0), one(0.0, 0.0))) for e in errors]
        assert values[0] == 0
        assert all(a < b for a, b in itertools.pairwise(values))

    def test_sign_does_not_matter(self):
        assert wing(one(0.51, 0.3), one(0.5, 0.5)) == pytest.approx(
            float(wing(one(0.49, 0.7), one(0.5, 0.5))), rel=1e-4
        )

    def test_a_missing_label_counts_neither_in_the_value_nor_in_the_gradient(self):
        predicted = torch.rand(2, 3, 2, requires_grad=True)
        target = torch.rand(2, 3, 2)
        target[0, 1] = torch.nan
        target[1, 2, 0] = torch.nan  # half a label is taken as it is
        loss = wing(predicted, target)
        known = ~torch.isnan(target)
        alone = wing(predicted.detach()[known].view(1, -1, 1), target[known].view(1, -1, 1))
        assert loss.item() == pytest.approx(float(alone), rel=1e-6)
        loss.backward()
        assert (predicted.grad[~known] == 0).all()
        assert (predicted.grad[known] != 0).all()
        assert torch.isfinite(predicted.grad).all()

    def test_no_label_at_all(self):
        predicted = torch.rand(2, 3, 2, requires_grad=True)
        loss = wing(predicted, torch.full((2, 3, 2), torch.nan))
        loss.backward()
        assert loss.item() == 0
        assert not predicted.grad.any()


class TestDistanceNLL:
    def test_by_hand(self):
        # Distance 5, sigma 2: 5 / 2 + ln 2 = 3.1931472. Distance 0, sigma 1: 0.
        predicted = torch.tensor([[[3.0, 4.0], [1.0, 1.0]]])
        target = torch.tensor([[[0.0, 0.0], [1.0, 1.0]]])
        got = distance_nll(predicted, torch.tensor([[math.log(2), 0.0]]), target)
        assert float(got) == pytest.approx(3.1931472 / 2, rel=1e-6)

    def test_least_where_sigma_is_the_distance(self):
        log_sigma = torch.full((1, 1), math.log(5.0), requires_grad=True)
        distance_nll(one(3.0, 4.0), log_sigma, one(0.0, 0.0)).backward()
        assert log_sigma.grad.item() == pytest.approx(0, abs=1e-6)
        values = [float(distance_nll(one(3.0, 4.0), torch.full((1, 1), math.log(s)), one(0.0, 0.0))) for s in (4, 5, 6)]
        assert values[1] == min(values)

    def test_does_not_pull_at_the_positions(self):
        predicted = torch.rand(2, 3, 2, requires_grad=True)
        log_sigma = torch.zeros(2, 3, requires_grad=True)
        distance_nll(predicted, log_sigma, torch.rand(2, 3, 2)).backward()
        assert predicted.grad is None
        assert log_sigma.grad.any()

    def test_a_point_without_both_coordinates_does_not_count(self):
        predicted, log_sigma = torch.rand(2, 3, 2), torch.rand(2, 3, requires_grad=True)
        target = torch.rand(2, 3, 2)
        target[0, 1] = torch.nan
        target[1, 2, 0] = torch.nan
        known = ~torch.isnan(target).any(dim=-1)
        loss = distance_nll(predicted, log_sigma, target)
        alone = distance_nll(predicted[known][None], log_sigma.detach()[known][None], target[known][None])
        assert loss.item() == pytest.approx(float(alone), rel=1e-6)
        loss.backward()
        assert (log_sigma.grad[~known] == 0).all()
        assert torch.isfinite(log_sigma.grad).all()

    def test_no_label_at_all(self):
        log_sigma = torch.zeros(2, 3, requires_grad=True)
        loss = distance_nll(torch.rand(2, 3, 2), log_sigma, torch.full((2, 3, 2), torch.nan))
        loss.backward()
        assert loss.item() == 0
        assert not log_sigma.grad.any()
