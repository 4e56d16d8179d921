from __future__ import annotations

import pytest
import torch
import torchvision

from cascade_kp.config import TrunkConfig
from cascade_kp.models.blocks import BasicBlock, Bottleneck, Trunk


def count(module):
    return sum(p.numel() for p in module.parameters())


class TestTrunk:
    @pytest.mark.parametrize("depth", [18, 34, 50])
    @pytest.mark.parametrize("stages", [1, 2, 3, 4])
    def test_shapes_and_strides(self, depth, stages):
        trunk = Trunk(TrunkConfig(depth=depth, width=4, stages=stages)).eval()
        with torch.inference_mode():
            maps = trunk(torch.randn(2, 3, 64, 96))
        expansion = 4 if depth == 50 else 1
        channels = [4 * expansion * 2**i for i in range(stages)]
        assert trunk.channels == channels
        assert [tuple(m.shape) for m in maps] == [
            (2, c, 64 // stride, 96 // stride) for c, stride in zip(channels, (4, 8, 16, 32), strict=False)
        ]

    @pytest.mark.parametrize("depth", [18, 34, 50])
    def test_as_many_parameters_as_torchvisions(self, depth):
        with torch.device("meta"):
            theirs = getattr(torchvision.models, f"resnet{depth}")()
            ours = Trunk(TrunkConfig(depth=depth, width=64, stages=4))
        assert count(ours) == count(theirs) - count(theirs.fc)
        shapes = sorted(tuple(p.shape) for name, p in theirs.named_parameters() if not name.startswith("fc."))
        assert sorted(tuple(p.shape) for p in ours.parameters()) == shapes

    @pytest.mark.parametrize("depth", [18, 50])
    def test_says_what_torchvisions_says_with_the_same_weights(self, depth):
        theirs = getattr(torchvision.models, f"resnet{depth}")().eval()
        ours = Trunk(TrunkConfig(depth=depth)).eval()
        # Both list a block's convolutions in the order of use, the shortcut last.
        source = {k: v for k, v in theirs.state_dict().items() if not k.startswith("fc.")}
        ours.load_state_dict(dict(zip(ours.state_dict(), source.values(), strict=True)))
        image = torch.randn(1, 3, 32, 32)
        with torch.inference_mode():
            x = theirs.maxpool(theirs.relu(theirs.bn1(theirs.conv1(image))))
            expected = theirs.layer4(theirs.layer3(theirs.layer2(theirs.layer1(x))))
            torch.testing.assert_close(ours(image)[-1], expected, rtol=1e-4, atol=1e-4)

    def test_fewer_stages_are_the_first_ones(self):
        names = set(Trunk(TrunkConfig(width=4, stages=2)).state_dict())
        whole = set(Trunk(TrunkConfig(width=4, stages=4)).state_dict())
        assert names < whole
        assert {name for name in whole - names if not name.startswith(("stages.2.", "stages.3."))} == set()


class TestBlocks:
    @pytest.mark.parametrize("block", [BasicBlock, Bottleneck])
    @pytest.mark.parametrize("stride", [1, 2])
    def test_shape(self, block, stride):
        module = block(6, 4, stride).eval()
        assert module(torch.randn(1, 6, 8, 12)).shape == (1, 4 * block.expansion, 8 // stride, 12 // stride)

    @pytest.mark.parametrize(("block", "inputs"), [(BasicBlock, 4), (Bottleneck, 16)])
    def test_the_shortcut_is_the_identity_where_it_can_be(self, block, inputs):
        module = block(inputs, 4, 1).eval()
        last = module.second if block is BasicBlock else module.third
        torch.nn.init.zeros_(last[1].weight)  # the residual says nothing
        x = torch.rand(1, inputs, 8, 8)
        torch.testing.assert_close(module(x.clone()), x)
