"""Optimisers, schedules, and norms shared by processes."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from cascade_kp.training.optim import Schedule, SharedNorm, make_optimiser, share_norms
from cascade_kp.training.recipe import OptimConfig, ScheduleConfig


class TestOptimisers:
    @pytest.mark.parametrize("name", ["adamw", "adam", "sgd", "rmsprop"])
    def test_each_finds_the_bottom_of_a_bowl(self, name):
        torch.manual_seed(0)
        value = nn.Parameter(torch.full((3, 3), 4.0))
        lr = {"sgd": 0.02, "rmsprop": 0.005}.get(name, 0.1)
        optimiser = make_optimiser([value], OptimConfig(name=name, lr=lr, weight_decay=0.0))
        for _ in range(300):
            optimiser.zero_grad()
            (value - 1).square().sum().backward()
            optimiser.step()
        assert (value - 1).abs().max() < 0.05

    @pytest.mark.parametrize("name", ["adamw", "adam", "sgd", "rmsprop"])
    def test_weights_decay_and_biases_do_not(self, name):
        layer = nn.Linear(3, 3)
        optimiser = make_optimiser(layer.parameters(), OptimConfig(name=name, lr=0.1, weight_decay=0.3))
        decays = {id(p): group["weight_decay"] for group in optimiser.param_groups for p in group["params"]}
        assert decays == {id(layer.weight): 0.3, id(layer.bias): 0.0}

    def test_settings_arrive(self):
        layer = nn.Linear(2, 2)
        assert make_optimiser(layer.parameters(), OptimConfig(betas=(0.5, 0.6))).defaults["betas"] == (0.5, 0.6)
        assert make_optimiser(layer.parameters(), OptimConfig(name="sgd", momentum=0.7)).defaults["momentum"] == 0.7
        plain = make_optimiser(layer.parameters(), OptimConfig(name="sgd", momentum=0.0))
        assert not plain.defaults["nesterov"]


class TestSchedules:
    def test_warm_up_is_linear(self):
        schedule = Schedule(ScheduleConfig(warmup=4), 100)
        assert [schedule.rate(step) for step in range(4)] == [0.25, 0.5, 0.75, 1.0]

    def test_cosine(self):
        schedule = Schedule(ScheduleConfig(warmup=0, floor=0.1), 100)
        assert schedule.rate(0) == 1.0
        assert schedule.rate(50) == pytest.approx(0.55)
        assert schedule.rate(100) == pytest.approx(0.1)
        parameter = nn.Parameter(torch.zeros(1))
        reference = torch.optim.lr_scheduler.CosineAnnealingLR(torch.optim.SGD([parameter], 1.0), 100, 0.1)
        for step in range(100):
            assert schedule.rate(step) == pytest.approx(reference.get_last_lr()[0], abs=1e-6)
            reference.optimizer.step()
            reference.step()

    def test_one_cycle_is_torchs(self):
        steps = 50
        schedule = Schedule(ScheduleConfig(name="one_cycle", rise=0.3, floor=1 / 25 / 1e4), steps)
        parameter = nn.Parameter(torch.zeros(1))
        # torch puts the top half a step or so elsewhere, as it counts from the last step.
        reference = torch.optim.lr_scheduler.OneCycleLR(torch.optim.SGD([parameter], 1.0), 1.0, total_steps=steps)
        for step in range(steps):
            assert schedule.rate(step) == pytest.approx(reference.get_last_lr()[0], abs=0.07)
            reference.optimizer.step()
            if step < steps - 1:
                reference.step()
        assert max(schedule.rate(step) for step in range(steps)) == pytest.approx(1.0, abs=1e-3)

    def test_constant(self):
        schedule = Schedule(ScheduleConfig(name="constant", warmup=2), 10)
        assert [schedule.rate(step) for step in range(4)] == [0.5, 1.0, 1.0, 1.0]

    def test_plateau_is_torchs(self):
        config = ScheduleConfig(name="plateau", warmup=0, patience=2, factor=0.5, floor=0.1)
        schedule = Schedule(config, 1000)
        parameter = nn.Parameter(torch.zeros(1))
        reference = torch.optim.lr_scheduler.ReduceLROnPlateau(
            torch.optim.SGD([parameter], 1.0), factor=0.5, patience=2, min_lr=0.1, threshold=1e-4
        )
        errors = [5, 4, 4.1, 4, 4.5, 3, 3, 3, 3, 2.9, 3, 3, 3, 3, 3, 3, 3, 3, 3, 3, 3, 3, 3, 3]
        for error in errors:
            schedule.observe(error)
            reference.step(error)
            assert schedule.rate(7) == pytest.approx(reference.get_last_lr()[0])
        assert schedule.rate(7) == pytest.approx(0.1)

    def test_stale_counts_validations_since_the_best(self):
        schedule = Schedule(ScheduleConfig(name="plateau", patience=1), 10)
        better = [schedule.observe(error) for error in (3.0, 2.0, 2.5, 2.5, 2.5, 1.0, math.nan)]
        assert better == [True, True, False, False, False, True, False]
        assert schedule.stale == 1

    def test_a_state_goes_on(self):
        schedule = Schedule(ScheduleConfig(name="plateau", patience=0), 10)
        for error in (1.0, 2.0, 3.0):
            schedule.observe(error)
        other = Schedule(ScheduleConfig(name="plateau", patience=0), 10)
        other.load_state_dict(schedule.state_dict())
        assert (other.rate(5), other.best, other.stale) == (schedule.rate(5), 1.0, 2)


class TestSharedNorm:
    """Alone in its group, a shared norm is an ordinary one; two processes are in test_processes.py."""

    @pytest.fixture
    def _alone(self, tmp_path):
        torch.distributed.init_process_group("gloo", f"file://{tmp_path}/rendezvous", rank=0, world_size=1)
        yield
        torch.distributed.destroy_process_group()

    @pytest.mark.usefixtures("_alone")
    def test_is_a_batch_norm(self):
        torch.manual_seed(0)
        plain = nn.BatchNorm2d(8)
        nn.init.normal_(plain.weight)
        shared = nn.Sequential(nn.BatchNorm2d(8))
        shared[0].load_state_dict(plain.state_dict())
        share_norms(shared)
        assert type(shared[0]) is SharedNorm
        for _ in range(3):
            x = torch.randn(4, 8, 5, 6) * 3 + 2
            a, b = x.clone().requires_grad_(), x.clone().requires_grad_()
            one, two = plain(a), shared(b)
            torch.testing.assert_close(one, two, atol=1e-5, rtol=1e-5)
            weight = torch.randn_like(one)
            (one * weight).sum().backward()
            (two * weight).sum().backward()
            torch.testing.assert_close(a.grad, b.grad, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(plain.weight.grad, shared[0].weight.grad, atol=1e-3, rtol=1e-4)
        for name, value in plain.state_dict().items():
            torch.testing.assert_close(value, shared[0].state_dict()[name])
        torch.testing.assert_close(plain.eval()(x), shared.eval()(x))
