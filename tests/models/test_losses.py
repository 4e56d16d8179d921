from __future__ import annotations

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from cascade_kp.config import LossConfig, NetConfig, TrunkConfig
from cascade_kp.errors import ConfigError, InputError
from cascade_kp.models.heads import KeypointNet, Prediction, cell_moments
from cascade_kp.models.losses import ResidualFlow, distance_nll, make_loss, wing

NAMES = ("wing", "soft_wing", "mse", "l1", "smooth_l1", "star", "rle", "simcc")
HEADS = ("soft_argmax", "simcc", "direct")
EVERY = pytest.mark.parametrize("name", NAMES)


def one(x, y):
    """(1, 1, 2)."""
    return torch.tensor([[[x, y]]])


def make(name, keypoints=3, **settings):
    """A loss for a head that suits every loss."""
    return make_loss(LossConfig(name, **settings), "simcc", keypoints)


def say(points, log_sigma=None, covariance=None, logits=None):
    """A prediction; what is not given is modest."""
    shape = points.shape[:2]
    if log_sigma is None:
        log_sigma = points.new_full(shape, -3.0)
    if covariance is None:
        covariance = points.new_tensor([0.01, 0.002, 0.005]).expand(*shape, 3)
    if logits is None:
        logits = points.new_zeros(*shape, 2, 16)
    return Prediction(points, log_sigma, points.new_zeros(shape[:1]), covariance, logits)


def draw(seed=0, dtype=torch.float32):
    """A prediction of everything for (2, 3) points, all leaves with a gradient, and labels nearby."""
    generator = torch.Generator().manual_seed(seed)

    def rand(*shape):
        return torch.rand(*shape, generator=generator, dtype=dtype)

    points = 0.2 + 0.6 * rand(2, 3, 2)
    target = points + 0.1 * (rand(2, 3, 2) - 0.5)
    spread = torch.stack([0.01 + 0.01 * rand(2, 3), 0.004 * (rand(2, 3) - 0.5), 0.004 + 0.004 * rand(2, 3)], dim=-1)
    leaves = [points, -3 + rand(2, 3), spread, rand(2, 3, 2, 16)]
    return say(*(leaf.requires_grad_() for leaf in leaves)), target


def lively(loss, amount=0.2):
    """The loss with parameters, if it has some, that are not those of the start."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in loss.parameters():
            parameter.add_(amount * torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype))
    return loss


def leaves(said):
    return [said.points, said.log_sigma, said.covariance, said.logits]


class TestWing:
    def test_by_hand(self):
        # Width 0.04, curvature 0.008: an error of 0.004 is 0.04 ln(1 + 0.5) = 0.0162186; one of 0.1 is beyond the
        # width: 0.1 - 0.04 (1 - ln 6) = 0.06 + 0.04 * 1.7917595 = 0.1316704. The mean of the two is 0.0739445.
        got = wing(one(0.504, 0.4), one(0.5, 0.5))
        assert got.shape == (1, 1)
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
        assert float(wing(one(0.51, 0.3), one(0.5, 0.5))) == pytest.approx(
            float(wing(one(0.49, 0.7), one(0.5, 0.5))), rel=1e-4
        )

    def test_each_point_for_itself_and_nothing_without_both_coordinates(self):
        predicted = torch.rand(2, 3, 2, requires_grad=True)
        target = torch.rand(2, 3, 2)
        target[0, 1] = torch.nan
        target[1, 2, 0] = torch.nan
        known = ~torch.isnan(target).any(dim=-1)
        value = wing(predicted, target)
        alone = wing(predicted.detach()[known][None], target[known][None])
        torch.testing.assert_close(value[known][None], alone)
        assert not value[~known].any()
        value.sum().backward()
        assert (predicted.grad[~known] == 0).all()
        assert (predicted.grad[known] != 0).all()

    def test_no_label_at_all(self):
        predicted = torch.rand(2, 3, 2, requires_grad=True)
        value = wing(predicted, torch.full((2, 3, 2), torch.nan))
        value.sum().backward()
        assert not value.any()
        assert not predicted.grad.any()


class TestDistanceNLL:
    def test_by_hand(self):
        # Distance 5, sigma 2: 5 / 2 + ln 2 = 3.1931472. Distance 0, sigma 1: 0.
        predicted = torch.tensor([[[3.0, 4.0], [1.0, 1.0]]])
        target = torch.tensor([[[0.0, 0.0], [1.0, 1.0]]])
        got = distance_nll(predicted, torch.tensor([[math.log(2), 0.0]]), target)
        torch.testing.assert_close(got, torch.tensor([[3.1931472, 0.0]]))

    def test_least_where_sigma_is_the_distance(self):
        log_sigma = torch.full((1, 1), math.log(5.0), requires_grad=True)
        distance_nll(one(3.0, 4.0), log_sigma, one(0.0, 0.0)).sum().backward()
        assert log_sigma.grad.item() == pytest.approx(0, abs=1e-6)
        values = [float(distance_nll(one(3.0, 4.0), torch.full((1, 1), math.log(s)), one(0.0, 0.0))) for s in (4, 5, 6)]
        assert values[1] == min(values)

    def test_does_not_pull_at_the_positions(self):
        predicted = torch.rand(2, 3, 2, requires_grad=True)
        log_sigma = torch.zeros(2, 3, requires_grad=True)
        distance_nll(predicted, log_sigma, torch.rand(2, 3, 2)).sum().backward()
        assert predicted.grad is None
        assert log_sigma.grad.all()

    def test_a_point_without_both_coordinates_does_not_count(self):
        predicted, log_sigma = torch.rand(2, 3, 2), torch.rand(2, 3, requires_grad=True)
        target = torch.rand(2, 3, 2)
        target[0, 1] = torch.nan
        target[1, 2, 0] = torch.nan
        known = ~torch.isnan(target).any(dim=-1)
        value = distance_nll(predicted, log_sigma, target)
        alone = distance_nll(predicted[known][None], log_sigma[known][None], target[known][None])
        torch.testing.assert_close(value[known][None], alone)
        assert not value[~known].any()
        value.sum().backward()
        assert (log_sigma.grad[~known] == 0).all()
        assert torch.isfinite(log_sigma.grad).all()

    def test_no_label_at_all(self):
        log_sigma = torch.zeros(2, 3, requires_grad=True)
        value = distance_nll(torch.rand(2, 3, 2), log_sigma, torch.full((2, 3, 2), torch.nan))
        value.sum().backward()
        assert not value.any()
        assert not log_sigma.grad.any()


class TestEveryLoss:
    @EVERY
    def test_a_value_for_each_point(self, name):
        said, target = draw()
        value = make(name)(said, target)
        assert value.shape == (2, 3)
        assert (value != 0).all()
        assert torch.isfinite(value).all()

    @EVERY
    def test_gradients_are_those_of_the_value(self, name):
        loss = lively(make(name).double())
        said, target = draw(dtype=torch.float64)
        # The axes of the distributions are taken as they are, so these do not lean: then nothing turns.
        upright = torch.stack([said.covariance[..., 0], torch.zeros(2, 3), said.covariance[..., 2]], dim=-1).detach()
        free = [said.points, said.log_sigma, upright[..., [0, 2]].requires_grad_(), said.logits]

        def value(points, log_sigma, variances, logits):
            x, y = variances.unbind(dim=-1)
            return loss(say(points, log_sigma, torch.stack([x, torch.zeros_like(x), y], dim=-1), logits), target)

        assert torch.autograd.gradcheck(value, free)

    @EVERY
    def test_what_has_no_label_changes_nothing_and_gets_nothing(self, name):
        loss = lively(make(name))
        said, target = draw()
        full = loss(said, target)
        wanted = torch.autograd.grad(full[[0, 1], [0, 1]].sum(), [*leaves(said), *loss.parameters()], allow_unused=True)
        target[0, 1:] = torch.nan
        target[1, 0, 1] = torch.nan  # half a label
        target[1, 2, 0] = torch.nan
        known = ~torch.isnan(target).any(dim=-1)
        assert known.sum() == 2
        # Even a network gone mad must not reach the loss through a point that has no label.
        mad = [leaf.detach().clone() for leaf in leaves(said)]
        for leaf in mad:
            leaf[~known] = torch.inf
            leaf.requires_grad_()
        value = loss(say(*mad), target)
        torch.testing.assert_close(value[known], full[known])
        assert (value[~known] == 0).all()
        got = torch.autograd.grad(value.sum(), [*mad, *loss.parameters()], allow_unused=True)
        assert [g is None for g in got] == [g is None for g in wanted]
        for a, b in zip(got, wanted, strict=True):
            if a is not None:
                torch.testing.assert_close(a, b)

    @EVERY
    def test_no_label_at_all(self, name):
        loss = make(name)
        said, target = draw()
        value = loss(said, torch.full_like(target, torch.nan))
        assert (value == 0).all()
        value.sum().backward()
        got = [x.grad for x in [*leaves(said), *loss.parameters()] if x.grad is not None]
        assert got
        assert not any(g.any() for g in got)

    @EVERY
    def test_a_perfect_hit_has_a_gradient(self, name):
        said, _ = draw()
        said = said._replace(covariance=torch.zeros_like(said.covariance).requires_grad_())
        make(name)(said, said.points.detach().clone()).sum().backward()
        for leaf in leaves(said):
            assert leaf.grad is None or torch.isfinite(leaf.grad).all()

    @EVERY
    def test_the_mirror_image_costs_the_same(self, name):
        loss = make(name)
        said, target = draw()
        mirrored = say(
            said.points * torch.tensor([-1.0, 1.0]) + torch.tensor([1.0, 0.0]),
            said.log_sigma,
            said.covariance * torch.tensor([1.0, -1.0, 1.0]),
            torch.stack([said.logits[:, :, 0].flip(-1), said.logits[:, :, 1]], dim=2),
        )
        there = loss(mirrored, target * torch.tensor([-1.0, 1.0]) + torch.tensor([1.0, 0.0]))
        torch.testing.assert_close(there, loss(said, target), rtol=1e-4, atol=1e-5)

    @EVERY
    def test_half_precision_in_full_precision_out(self, name):
        said, target = draw()
        coarse = Prediction(*(None if x is None else x.detach().bfloat16() for x in said))
        loss = lively(make(name))
        with torch.autocast("cpu", torch.bfloat16):
            got = loss(coarse, target)
        assert got.dtype == torch.float32
        fine = Prediction(*(None if x is None else x.float() for x in coarse))
        torch.testing.assert_close(got, loss(fine, target), rtol=0, atol=0)

    @EVERY
    def test_only_rle_trains_sigma_and_has_parameters(self, name):
        loss = make(name)
        said, target = draw()
        loss(said, target).sum().backward()
        assert loss.trains_sigma == (name == "rle") == (said.log_sigma.grad is not None)
        assert bool(list(loss.parameters())) == (name == "rle")

    @EVERY
    def test_other_shapes_are_refused(self, name):
        said, target = draw()
        with pytest.raises(InputError, match=r"target: expected the shape \(2, 3, 2\), got \(2, 1, 2\)"):
            make(name)(said, target[:, :1])
        with pytest.raises(InputError, match=r"points: expected the shape \(2, 4, 2\), got \(2, 3, 2\)"):
            make(name, 4)(said, target)

    @pytest.mark.parametrize(("name", "missing"), [("star", "covariance"), ("simcc", "logits")])
    def test_a_network_that_is_not_training_is_refused(self, name, missing):
        said, target = draw()
        with pytest.raises(InputError, match=f"{missing}: expected .* training mode"):
            make(name)(said._replace(**{missing: None}), target)


class TestMakeLoss:
    @pytest.mark.parametrize("head", HEADS)
    @EVERY
    def test_a_head_must_give_what_the_loss_needs(self, name, head):
        heads = {"star": ("soft_argmax", "simcc"), "simcc": ("simcc",)}.get(name, HEADS)
        net = NetConfig(head=head)
        if head in heads:
            assert type(make_loss(LossConfig(name), net, 3)) is type(make_loss(LossConfig(name), head, 3))
        else:
            with pytest.raises(ConfigError, match=f"head: expected {' or '.join(map(repr, heads))} .*, got {head!r}"):
                make_loss(LossConfig(name), net, 3)

    def test_what_is_unknown_is_refused(self):
        with pytest.raises(ConfigError, match=r"name: expected one of \['wing', .*, got 'l7'"):
            make_loss(LossConfig("l7"), "direct", 3)
        with pytest.raises(ConfigError, match=r"head: expected 'soft_argmax' or .*, got 'heat'"):
            make_loss(LossConfig(), "heat", 3)
        with pytest.raises(ConfigError, match="keypoints: expected at least 1, got 0"):
            make_loss(LossConfig(), "direct", 0)


class TestElementwise:
    # Errors of 0.02 and 0.1, below and beyond the width of 0.04; curvature 0.008, reach 0.12.
    @pytest.mark.parametrize(
        ("name", "expected"),
        [
            ("wing", (0.04 * 1.2527630 + 0.1316704) / 2),  # ln 3.5; for the other see above
            ("soft_wing", (0.02 + 0.1373116) / 2),  # 0.04 + 0.12 (ln 13.5 - ln 6), 2.6026897 - 1.7917595
            ("mse", (0.0004 + 0.01) / 2),
            ("l1", (0.02 + 0.1) / 2),
            ("smooth_l1", (0.005 + 0.08) / 2),  # 0.0004 / 0.08; 0.1 - 0.02
        ],
    )
    def test_by_hand(self, name, expected):
        got = make(name, 1)(say(one(0.52, 0.4)), one(0.5, 0.5))
        assert float(got) == pytest.approx(expected, abs=1e-6)

    def test_wing_is_the_function(self):
        said, target = draw()
        got = make("wing", width=0.03, curvature=0.01)(said, target)
        torch.testing.assert_close(got, wing(said.points, target, 0.03, 0.01))

    @pytest.mark.parametrize("name", ["wing", "soft_wing", "smooth_l1"])
    @pytest.mark.parametrize("width", [0.01, 0.04, 0.1])
    def test_continuous_at_the_width(self, name, width):
        loss = make(name, 1, width=width)
        low, high = (float(loss(say(one(width * f, 0.0)), one(0.0, 0.0))) for f in (1 - 1e-4, 1 + 1e-4))
        assert low < high
        assert high == pytest.approx(low, rel=2e-3)

    def test_soft_wing_is_steepest_just_beyond_the_width(self):
        errors = torch.linspace(0.001, 0.3, 300)[:, None, None].expand(-1, 1, 2).clone().requires_grad_()
        make("soft_wing", 1)(say(errors), torch.zeros_like(errors)).sum().backward()
        slope = 2 * errors.grad[:, 0, 0]  # of the mean of two
        size = errors.detach()[:, 0, 0]
        torch.testing.assert_close(slope[size < 0.04], torch.ones_like(size[size < 0.04]))
        torch.testing.assert_close(slope[size > 0.04], 0.12 / (0.008 + size[size > 0.04]))


class TestStar:
    def test_by_hand(self):
        # Standard deviations 0.1 and 0.02, with the floor of 2.5e-6 in the variance 0.1000125 and 0.0200624. Distances
        # of 0.1 - 0.02 = 0.08 and 0.02 ** 2 / 0.08 = 0.005. 0.7999 + 0.249222 + 0.0104 for the variances.
        said = say(one(0.6, 0.52), covariance=torch.tensor([[[0.01, 0.0, 0.0004]]]))
        got = make("star", 1)(said, one(0.5, 0.5))
        assert float(got) == pytest.approx(1.059522, abs=1e-5)
        got = make("star", 1, spread_weight=5.0)(said, one(0.5, 0.5))
        assert float(got) == pytest.approx(1.059522 + 4 * 0.0104, abs=1e-5)

    def test_is_numpys_on_leaning_distributions(self):
        said, target = draw()
        got = make("star", width=0.01)(said, target).detach().numpy()
        error = (said.points - target).detach().numpy()
        for i, j in np.ndindex(2, 3):
            xx, xy, yy = said.covariance[i, j].tolist()
            variances, axes = np.linalg.eigh([[xx, xy], [xy, yy]])
            size = np.abs(axes.T @ error[i, j])
            distance = np.where(size < 0.01, size**2 / 0.02, size - 0.005)
            wanted = (distance / np.sqrt(variances + 2.5e-6)).sum() + variances.sum()
            assert got[i, j] == pytest.approx(wanted, rel=1e-4)

    @pytest.mark.parametrize("turn", [0.0, 0.4, math.pi / 4, 1.8, 3.0])
    def test_the_same_error_costs_less_along_the_long_axis(self, turn):
        loss = make("star", 1)
        c, s = math.cos(turn), math.sin(turn)
        long, short = 0.01, 0.0009
        covariance = [c * c * long + s * s * short, c * s * (long - short), s * s * long + c * c * short]
        values = [
            float(
                loss(say(one(0.5 + 0.05 * x, 0.5 + 0.05 * y), covariance=torch.tensor([[covariance]])), one(0.5, 0.5))
            )
            for x, y in ((c, s), (-s, c))
        ]
        # Distance 0.03; deviations 0.1 and 0.03.
        assert values == pytest.approx([0.03 / 0.1 + 0.0109, 0.03 / 0.03 + 0.0109], rel=3e-3)

    def test_round_and_flat_distributions_have_gradients(self):
        for covariance in ([0.01, 0.0, 0.01], [0.0, 0.0, 0.0], [0.01, 0.01, 0.01], [0.01, 0.0, 0.0]):
            said = say(one(0.53, 0.4).requires_grad_(), covariance=torch.tensor([[covariance]], requires_grad=True))
            make("star", 1)(said, one(0.5, 0.5)).sum().backward()
            assert torch.isfinite(said.points.grad).all()
            assert torch.isfinite(said.covariance.grad).all()
            assert (said.points.grad.sign() == torch.tensor([1.0, -1.0])).all() or covariance[1]

    @pytest.mark.parametrize("weight", [1.0, 20.0])
    def test_the_spread_settles_where_its_cost_is_its_gain(self, weight):
        # d / sqrt(v) + w v is least at v = (d / 2 w) ** (2 / 3).
        wanted = [(d / (2 * weight)) ** (2 / 3) for d in (0.08, 0.04)]
        variances = (1.5 * torch.tensor([[wanted]], dtype=torch.float64)).requires_grad_()
        optimiser = torch.optim.Adam([variances], lr=0.02 * max(wanted))
        loss = make("star", 1, spread_weight=weight)
        for _ in range(150):
            optimiser.zero_grad()
            x, y = variances.unbind(dim=-1)
            said = say(one(0.6, 0.44).double(), covariance=torch.stack([x, torch.zeros_like(x), y], dim=-1))
            loss(said, one(0.5, 0.5).double()).sum().backward()
            optimiser.step()
        assert variances.detach()[0, 0].tolist() == pytest.approx(wanted, rel=0.02)


class TestSimCC:
    def test_by_hand(self):
        # Level over 4 bins; the label in the middle, sigma 1: weights exp(-1.125) and exp(-0.125), as shares 0.1344707
        # and 0.3655293. 2 (0.1344707 ln 0.5378828 + 0.3655293 ln 1.4621172) = 0.1109443, over 4 bins.
        said = say(one(0.5, 0.5), logits=torch.zeros(1, 1, 2, 4))
        got = make("simcc", 1, bin_sigma=1.0)(said, one(0.5, 0.5))
        assert float(got) == pytest.approx(0.1109443 / 4, abs=1e-6)

    def test_nothing_but_the_target_costs_nothing(self):
        centres = torch.arange(64) + 0.5
        target = one(0.3, 0.8)
        logits = -0.5 * ((centres - 64 * target[..., None]) / 3).square()
        assert float(make("simcc", 1)(say(target, logits=logits), target)) == pytest.approx(0, abs=1e-7)
        assert float(make("simcc", 1)(say(target, logits=logits.flip(2)), target)) > 0.1

    def test_a_tenth_of_the_crop_costs_about_what_it_costs_in_wing(self):
        centres = torch.arange(256) + 0.5
        logits = -0.5 * ((centres - 256 * one(0.6, 0.6)[..., None]) / 3).square()
        said = say(one(0.6, 0.6), logits=logits)
        got, like = (float(make(name, 1)(said, one(0.5, 0.5))) for name in ("simcc", "wing"))
        assert 0.5 < got / like < 2

    def test_a_label_outside_is_taken_to_the_border(self):
        said, _ = draw()
        outside = torch.tensor([[-0.3, 0.4], [1.2, 0.4], [0.2, 7.0]]).expand(2, 3, 2)
        loss = make("simcc")
        torch.testing.assert_close(loss(said, outside), loss(said, outside.clamp(0, 1)))

    @pytest.mark.parametrize("sigma", [0.01, 1000.0])
    def test_needles_and_plains(self, sigma):
        said, target = draw()
        value = make("simcc", bin_sigma=sigma)(said, target)
        value.sum().backward()
        assert torch.isfinite(value).all()
        assert torch.isfinite(said.logits.grad).all()


class TestRLE:
    def test_by_hand(self):
        # Before training the flow is a standard normal law. Two coordinates of Laplace laws of scale 1 have an expected
        # length of 1.6232252, so sigma 0.5 stands for a deviation of sqrt(2) / 1.6232252 * 0.5001 = 0.4357098 in each
        # (sigma has a floor of 0.0001). The error of (0.3, -0.4) is a residual r of (0.6885317, -0.9180422).
        # Laplace: sqrt(2) * 1.6065739 + ln 2 = 2.9651856. Normal: 0.5 * 1.3168773 + ln 2 pi = 2.4963157.
        # 2 ln 0.4357098 + the mean of both = -1.6615574 + 2.7307507.
        said = say(one(0.8, 0.1), log_sigma=torch.full((1, 1), math.log(0.5)))
        assert make("rle", 1)(said, one(0.5, 0.5)).item() == pytest.approx(1.0691933, abs=1e-5)

    def test_the_deviation_is_that_of_the_expected_length(self):
        # E |(x, y)| for two Laplace laws of scale 1, from a grid in polar coordinates: the integral of r**2 exp(-r s)
        # over r is 2 / s**3, with s = cos + sin.
        angle = (np.arange(100_000) + 0.5) / 100_000 * np.pi / 2
        assert (2 / (np.cos(angle) + np.sin(angle)) ** 3).mean() * np.pi / 2 == pytest.approx(1.6232252, abs=1e-6)

    @pytest.mark.parametrize("trained", [False, True])
    def test_the_flows_density_sums_to_one(self, trained):
        flow = ResidualFlow()
        flow = lively(flow, 0.15) if trained else flow
        axis = torch.linspace(-20, 20, 401)
        y, x = torch.meshgrid(axis, axis, indexing="ij")
        with torch.inference_mode():
            density = flow.log_density(torch.stack([x, y], dim=-1)).exp()
        assert float(density.sum() * 0.1**2) == pytest.approx(1, abs=2e-3)
        standard = torch.exp(-0.5 * (x * x + y * y)) / (2 * math.pi)
        assert (float((density - standard).abs().max()) > 0.02) == trained

    def test_the_flows_growth_is_its_jacobians(self):
        flow = lively(ResidualFlow()).double()
        for place in torch.randn(5, 2, dtype=torch.float64):
            jacobian = torch.autograd.functional.jacobian(lambda x: flow(x)[0], place)
            assert flow(place)[1].item() == pytest.approx(float(torch.linalg.slogdet(jacobian).logabsdet), abs=1e-9)

    def test_the_seed_makes_the_flow(self):
        def weights(seed):
            torch.manual_seed(seed)
            return torch.cat([p.flatten() for p in make("rle").parameters()])

        assert torch.equal(weights(3), weights(3))
        assert not torch.equal(weights(3), weights(4))

    @pytest.mark.parametrize("law", ["laplace", "normal"])
    @pytest.mark.parametrize("scale", [0.01, 0.1])
    def test_sigma_finds_the_expected_distance(self, law, scale):
        rng = np.random.default_rng(0)
        residual = rng.laplace(size=(1, 1000, 2)) if law == "laplace" else rng.normal(size=(1, 1000, 2))
        residual *= scale / np.linalg.norm(residual, axis=-1).mean()
        points = torch.from_numpy(residual).float()
        log_sigma = torch.full((1, 1), -3.5, requires_grad=True)
        optimiser = torch.optim.Adam([log_sigma], lr=0.1)
        loss = make("rle", 1000)
        for _ in range(80):
            optimiser.zero_grad()
            loss(say(points, log_sigma=log_sigma.expand(1, 1000)), torch.zeros_like(points)).mean().backward()
            optimiser.step()
        # Laplace laws are what the guess is made for; of normal ones it is a few hundredths off.
        assert log_sigma.exp().item() == pytest.approx(scale, rel=0.06 if law == "laplace" else 0.1)

    def test_a_hit_is_not_worth_endlessly_much(self):
        said = say(one(0.5, 0.5), log_sigma=torch.full((1, 1), -80.0, requires_grad=True))
        value = make("rle", 1)(said, one(0.5, 0.5))
        value.sum().backward()
        assert -30 < value.item() < 0
        assert said.log_sigma.grad.abs().max() < 1e-6

    def test_the_flow_learns_the_law_of_the_residuals(self):
        # All on a ring, which no Laplace law describes.
        torch.manual_seed(0)
        angle = 2 * math.pi * torch.rand(1, 500)
        points = 0.05 * torch.stack([angle.cos(), angle.sin()], dim=-1)
        said, loss = say(points), make("rle", 500)
        optimiser = torch.optim.Adam(loss.parameters(), lr=5e-3)
        values = []
        for _ in range(100):
            optimiser.zero_grad()
            value = loss(said, torch.zeros_like(points)).mean()
            value.backward()
            optimiser.step()
            values.append(value.item())
        assert values[-1] < values[0] - 0.1


def by_map(heat, points=None, log_sigma=None):
    """A soft-argmax prediction with heat maps (N, K, cells, cells); the points are theirs."""
    n, k, cells, _ = heat.shape
    share = heat.flatten(2).softmax(dim=-1)
    points = share @ cell_moments(cells, cells)[:, :2].to(heat) if points is None else points
    return say(points, log_sigma or heat.new_full((n, k), -3.0))._replace(heat=heat, logits=None)


def gaussian(cells, target, sigma):
    """(N, K, cells, cells) logits of a Gaussian round (N, K, 2) places in crop units; sigma in cells."""
    centres = torch.arange(cells, dtype=target.dtype) + 0.5
    away = (centres - cells * target[..., None]).square()
    return -0.5 * (away[:, :, 1, :, None] + away[:, :, 0, None, :]) / sigma**2


class TestMap:
    """The divergence of heat maps, beside another loss."""

    @staticmethod
    def alone(said, target, weight=1.0, sigma=0.6, name="wing"):
        """What it adds to the other loss."""
        k = target.shape[1]
        torch.manual_seed(3)
        loss = make_loss(LossConfig(name, map_weight=weight, map_sigma=sigma), "soft_argmax", k)
        torch.manual_seed(3)
        return loss(said, target) - make_loss(LossConfig(name), "soft_argmax", k)(said, target)

    def test_is_numpys(self):
        rng = np.random.default_rng(0)
        heat, target = rng.normal(0, 2, (2, 3, 6, 6)), rng.uniform(0.1, 0.9, (2, 3, 2))
        target[1, 2] = (-0.2, 1.7)  # outside: taken to the corner
        got = self.alone(by_map(torch.from_numpy(heat)), torch.from_numpy(target), weight=0.3, sigma=0.8).numpy()
        for i, j in np.ndindex(2, 3):
            share = np.exp(heat[i, j]) / np.exp(heat[i, j]).sum()
            wanted, (x, y) = np.zeros((6, 6)), np.clip(target[i, j], 0, 1) * 6
            for row, column in np.ndindex(6, 6):
                wanted[row, column] = np.exp(-((column + 0.5 - x) ** 2 + (row + 0.5 - y) ** 2) / (2 * 0.8**2))
            wanted /= wanted.sum()
            assert got[i, j] == pytest.approx(0.3 * (wanted * np.log(wanted / share)).sum(), rel=1e-6)

    def test_nothing_but_the_gaussian_costs_nothing(self):
        target = torch.tensor([[[0.31, 0.8]]])
        right = gaussian(8, target, 0.6)
        assert float(self.alone(by_map(right + 5.0), target)) == pytest.approx(0, abs=1e-6)  # logits have no level
        others = {
            "x and y exchanged": right.mT,
            "mirrored": right.flip(-1),
            "wider": gaussian(8, target, 0.7),
            "narrower": gaussian(8, target, 0.5),
            "beside": gaussian(8, target + 0.02, 0.6),
            "level": torch.zeros_like(right),
        }
        for name, heat in others.items():
            assert float(self.alone(by_map(heat), target)) > 0.01, name

    def test_a_right_mean_of_a_wrong_map_still_costs(self):
        # Two heaps far from the label, which lies in the middle of them: the position is right.
        heat = torch.full((1, 1, 8, 8), -30.0)
        heat[0, 0, 3:5, 0] = heat[0, 0, 3:5, 7] = 0.0
        said = by_map(heat.requires_grad_())
        torch.testing.assert_close(said.points, one(0.5, 0.5))
        self.alone(said, one(0.5, 0.5)).sum().backward()
        assert heat.grad[0, 0, 3:5, 3:5].max() < -0.1  # there the map is to rise

    def test_a_label_outside_is_taken_to_the_border(self):
        said = by_map(torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0)))
        outside = torch.tensor([[-0.3, 0.4], [1.2, 0.4], [0.2, 7.0]]).expand(2, 3, 2)
        torch.testing.assert_close(self.alone(said, outside), self.alone(said, outside.clamp(0, 1)))

    @pytest.mark.parametrize("name", ["wing", "star", "rle"])
    def test_what_has_no_label_changes_nothing_and_gets_nothing(self, name):
        heat = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
        target = torch.rand(2, 3, 2, generator=torch.Generator().manual_seed(1))
        loss = make_loss(LossConfig(name, map_weight=0.1), "soft_argmax", 3)
        full = loss(by_map(heat), target)
        target[0, 1], target[1, 2, 0] = torch.nan, torch.nan
        known = ~torch.isnan(target).any(dim=-1)
        mad = heat.clone()
        mad[~known] = torch.inf
        said = by_map(heat)._replace(heat=mad.requires_grad_())
        value = loss(said, target)
        torch.testing.assert_close(value[known], full[known])
        assert (value[~known] == 0).all()
        value.sum().backward()
        assert torch.isfinite(mad.grad).all()
        assert (mad.grad[~known] == 0).all()
        assert (mad.grad[known] != 0).any()
        mad.grad = None
        loss(said, torch.full_like(target, torch.nan)).sum().backward()
        assert not mad.grad.any()

    @pytest.mark.parametrize("name", ["wing", "star", "rle"])
    def test_comes_on_top_of_the_other_loss(self, name):
        said = by_map(torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0)))
        target = torch.rand(2, 3, 2, generator=torch.Generator().manual_seed(1))
        divergence = self.alone(said, target, name=name)
        torch.testing.assert_close(divergence, self.alone(said, target), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(self.alone(said, target, 2.5, name=name), 2.5 * divergence, rtol=1e-4, atol=1e-5)
        loss = make_loss(LossConfig(name, map_weight=0.1), "soft_argmax", 3)
        assert loss.trains_sigma == (name == "rle") == bool(list(loss.parameters()))

    def test_gradients_are_those_of_the_value(self):
        heat = torch.randn(1, 2, 5, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
        target = torch.tensor([[[0.3, 0.6], [1.1, 0.2]]], dtype=torch.float64)
        loss = make_loss(LossConfig(map_weight=0.5), "soft_argmax", 2)
        assert torch.autograd.gradcheck(lambda h: loss(by_map(h), target), heat.requires_grad_())

    @pytest.mark.parametrize("name", ["wing", "star", "rle"])
    @pytest.mark.parametrize("sigma", [0.05, 0.6, 50.0])
    def test_a_network_in_half_precision_gets_finite_gradients(self, name, sigma):
        torch.manual_seed(0)
        config = NetConfig(32, TrunkConfig(width=8, stages=2), head_width=8, head_stride=4)
        net = KeypointNet(config, 3).train()
        loss = make_loss(LossConfig(name, map_weight=0.1, map_sigma=sigma), config, 3)
        target = torch.tensor([[[0.1, 0.9], [3.0, -2.0], [torch.nan, 0.5]]]).expand(2, 3, 2)
        with torch.autocast("cpu", torch.bfloat16):
            value = loss(net(torch.rand(2, 3, 32, 32) * 255), target)
        assert value.dtype == torch.float32
        value.sum().backward()
        gradients = [p.grad for p in net.parameters() if p.grad is not None]
        assert all(torch.isfinite(g).all() for g in gradients)
        assert net.head.heat.weight.grad.abs().max() > 0

    @pytest.mark.parametrize("head", ["direct", "simcc"])
    def test_a_head_without_maps_takes_no_notice(self, head):
        said, target = draw()
        loss, plain = (make_loss(LossConfig(map_weight=weight), head, 3) for weight in (0.1, 0.0))
        torch.testing.assert_close(loss(said, target), plain(said, target), rtol=0, atol=0)

    def test_a_network_that_is_not_training_is_refused(self):
        said = by_map(torch.zeros(1, 1, 4, 4))._replace(heat=None)
        with pytest.raises(InputError, match=r"heat: expected some, as a 'soft_argmax' head in training mode"):
            make_loss(LossConfig(map_weight=0.1), "soft_argmax", 1)(said, one(0.5, 0.5))

    @pytest.mark.parametrize(
        ("settings", "message"),
        [
            ({"map_weight": -0.1}, "map_weight: expected at least 0, got -0.1"),
            ({"map_sigma": 0.0}, "map_sigma: expected above 0"),
        ],
    )
    def test_numbers_out_of_range_are_refused(self, settings, message):
        with pytest.raises(ConfigError, match=message):
            LossConfig(**settings)


SUITED = [(head, name) for head in HEADS for name in NAMES if name not in ("star", "simcc") or head == "simcc"] + [
    ("soft_argmax", "star")
]


@pytest.mark.parametrize(("head", "name"), SUITED)
def test_a_network_learns_one_batch_by_heart(head, name):
    torch.manual_seed(0)
    config = NetConfig(32, TrunkConfig(width=8, stages=2), head=head, head_width=8, head_stride=4)
    net = KeypointNet(config, 3)
    loss = make_loss(replace(LossConfig(name), width=0.01), config, 3)
    images, target = torch.rand(4, 3, 32, 32) * 255, 0.2 + 0.6 * torch.rand(4, 3, 2)
    target[0, 1] = torch.nan
    known = ~torch.isnan(target).any(dim=-1)
    optimiser = torch.optim.Adam([*net.parameters(), *loss.parameters()], lr=5e-3)
    losses, errors = [], []
    for _ in range(50):
        optimiser.zero_grad()
        said = net(images)
        value = loss(said, target)[known].mean()
        value.backward()
        optimiser.step()
        losses.append(value.item())
        errors.append((said.points - target)[known].norm(dim=-1).mean().item())
    assert np.mean(losses[-5:]) < losses[0]
    assert np.mean(errors[-5:]) < 0.75 * errors[0]
