"""What a trained network lends to one of another scheme."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from protocol_case import tiny_model
from skimage import data as pictures

from cascade_kp import geometry
from cascade_kp.config import CascadeConfig, NetConfig, RegionConfig, TrunkConfig
from cascade_kp.errors import ConfigError
from cascade_kp.models.cascade import Cascade
from cascade_kp.models.heads import KeypointNet
from cascade_kp.schemes import Scheme, convert, load_scheme, sources
from cascade_kp.training.parts import Part, region_part
from cascade_kp.training.warm_start import warm_weights
from cascade_kp.weights import ModelInfo, load_model, save_model

IBUG, KAGGLE = load_scheme("ibug68"), load_scheme("kaggle15")
OTHER = Scheme("other", ("nose_tip", "left_ear", "right_ear"), {"ears": (1, 2)})
NET = NetConfig(input_px=32, trunk=TrunkConfig(width=4, stages=3), head_width=4)


def whole(scheme, net=NET, *, judges=True, name="coarse"):
    return dataclasses.replace(Part.of(name, net, 1.3, list(range(len(scheme))), scheme), judges=judges)


def made(path, config, scheme=IBUG, seed=0):
    torch.manual_seed(seed)
    cascade = Cascade(config, scheme)
    for value in cascade.parameters():  # no two rows alike
        torch.nn.init.normal_(value, std=0.1)
    save_model(path, cascade.eval(), ModelInfo("made", scheme, config))
    return str(path)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return str(tiny_model(tmp_path_factory.mktemp("model") / "tiny.safetensors"))


def test_the_same_scheme_takes_everything(model):
    weights = warm_weights(model, whole(IBUG), IBUG)
    net = load_model(model)[0].coarse.net.state_dict()
    assert weights.keys() == net.keys()
    assert all(torch.equal(weights[key], net[key]) for key in net)


@pytest.mark.parametrize(
    ("head", "rows", "each"), [("soft_argmax", "heat", 1), ("simcc", "maps", 1), ("direct", "points", 2)]
)
def test_points_are_means_of_those_that_they_are_made_from(tmp_path, head, rows, each):
    net = dataclasses.replace(NET, head=head)
    path = made(tmp_path / "made.safetensors", CascadeConfig(coarse=net))
    lent = load_model(path)[0].coarse.net.state_dict()
    weights = warm_weights(path, whole(KAGGLE, net), KAGGLE)
    KeypointNet(net, 15, face_score=True).load_state_dict(weights)
    for key in (f"head.{rows}.weight", f"head.{rows}.bias"):
        before, after = lent[key].unflatten(0, (68, each)), weights[key].unflatten(0, (15, each))
        for i, places in enumerate(sources(IBUG.keypoints, KAGGLE.keypoints)):
            torch.testing.assert_close(after[i], before[list(places)].mean(dim=0))
    doubt, before = weights["head.doubt.linear.bias"], lent["head.doubt.linear.bias"]
    assert doubt[KAGGLE.index("nose_tip")] == before[IBUG.index("nose_bridge_4")]
    assert doubt[15] == before[68]  # whether there is a face


@pytest.mark.parametrize("head", ["soft_argmax", "simcc", "direct"])
def test_an_unknown_point_starts_in_the_middle(tmp_path, head):
    net = dataclasses.replace(NET, head=head)
    path = made(tmp_path / "made.safetensors", CascadeConfig(coarse=net))
    warm = KeypointNet(net, 3, face_score=True).eval()
    warm.load_state_dict(warm_weights(path, whole(OTHER, net), OTHER))
    said = warm(torch.rand(2, 3, 32, 32) * 255).points
    if head != "simcc":  # whose bins have a bias of their own
        torch.testing.assert_close(said[:, 1:], torch.full((2, 2, 2), 0.5), atol=1e-5, rtol=0)
    assert not torch.allclose(said[:, 0], said[:, 1], atol=1e-6, rtol=0)


def test_a_region_takes_its_namesake_or_one_made_alike(tmp_path):
    wide = dataclasses.replace(NET, head_width=6)
    regions = {
        "right_eye": RegionConfig(NET),
        "left_eye": RegionConfig(NET, mirror=True),
        "nose": RegionConfig(wide),
        "mouth": RegionConfig(dataclasses.replace(NET, input_px=48)),
    }
    path = made(tmp_path / "made.safetensors", CascadeConfig(coarse=NET, regions=regions))
    trunks = {name: net.net.state_dict()["trunk.stem.0.0.weight"] for name, net in load_model(path)[0].regions.items()}

    def of(region, net, scheme=IBUG):
        config = CascadeConfig(coarse=NET, regions={region: RegionConfig(net)})
        return warm_weights(path, region_part(config, region, scheme), scheme)["trunk.stem.0.0.weight"]

    assert torch.equal(of("mouth", NET), trunks["mouth"])  # input_px may differ
    assert torch.equal(of("ears", wide, OTHER), trunks["nose"])
    assert torch.equal(of("ears", NET, OTHER), trunks["right_eye"])
    # What sees mirrored crops speaks of the other eye, and lends nothing to one that sees them as they are.
    assert torch.equal(of("left_eye", NET), trunks["right_eye"])
    with pytest.raises(ConfigError, match=r"regions.ears.warm_start: expected a model with a network 'regions.ears'"):
        of("ears", dataclasses.replace(NET, head_width=8), OTHER)
    with pytest.raises(ConfigError, match=r"regions.mouth.warm_start: expected weights of the same shapes .*head"):
        of("mouth", wide)


def test_what_does_not_fit_is_refused(model):
    with pytest.raises(ConfigError, match=r"first.warm_start: expected a model with a network 'first', got "):
        warm_weights(model, whole(IBUG, name="first"), IBUG)
    with pytest.raises(ConfigError, match=r"expected weights of the same shapes in .*only input_px and the keypoints"):
        warm_weights(model, whole(KAGGLE, dataclasses.replace(NET, head_width=8)), KAGGLE)
    with pytest.raises(ConfigError, match=r"coarse.warm_start: expected weights of the same shapes"):
        warm_weights(model, whole(IBUG, judges=False), IBUG)


def test_kaggles_points_are_found_before_any_training():
    cascade, info = load_model("ibug68")
    net = info.config.coarse
    warm = KeypointNet(net, 15, face_score=False).eval()
    warm.load_state_dict(warm_weights("ibug68", whole(KAGGLE, net, judges=False), KAGGLE))
    image = torch.from_numpy(pictures.astronaut()).permute(2, 0, 1)[None].float()
    frames = cascade.coarse.frames(torch.tensor([[172.0, 70.0, 272.0, 190.0]]), torch.zeros(1))
    crop = geometry.sample(image, frames, net.input_px)
    with torch.inference_mode():
        known, new = cascade.coarse.net(crop).points[0].numpy(), warm(crop).points[0].numpy()
    error = np.linalg.norm(new - convert(known, IBUG, KAGGLE), axis=1) * net.input_px
    assert error.max() < 2.0, error
