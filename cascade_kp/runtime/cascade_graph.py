"""A whole cascade as one ONNX graph: picture and boxes in, keypoints in the picture's frame out.

It does what ``Pipeline`` does with boxes that are given, face by face in a loop, so that memory does not grow with
their number. Most functions here write what the one of their name in :mod:`cascade_kp.models.cascade` does.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch

from cascade_kp.models.cascade import ABSURD, SURE, TIE, TURNS, VIEWS, Cascade
from cascade_kp.runtime import crop_graph
from cascade_kp.runtime.crop_graph import Crop, Frames
from cascade_kp.runtime.graph import Graph, Value
from cascade_kp.runtime.network_graph import Said, network

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    import onnx

    from cascade_kp.config import RegionConfig
    from cascade_kp.models.heads import KeypointNet

__all__ = ["cascade_graph"]


def cascade_graph(
    cascade: Cascade, texts: Mapping[str, str] | None = None, *, stage_one: bool = False
) -> onnx.ModelProto:
    """Write a cascade as an ONNX model.

    Args:
        cascade: in evaluation mode, its batch norms folded away.
        texts: what each input and output is, for whoever reads the file.
        stage_one: also take the faces' rolls, and answer what stage one said.

    Returns:
        A model with inputs ``image`` (H, W, 3) uint8 RGB and ``boxes`` (N, 4) float32 xyxy px, and outputs
        ``keypoints`` (N, K, 2) and ``sigma`` (N, K) float32 px, image frame; NaN for a box that
        ``geometry.check_boxes`` refuses. With ``stage_one`` a third input is ``angles`` (N,) radians, roll of each face
        as far as it is known, and outputs are also ``coarse`` (N, K, 2) and ``coarse_sigma`` (N, K), the same as stage
        one says them, ``score`` (N,), the probability of a face, and what the runtimes' ``judge`` goes by, of one look
        at each box as it was given: ``judge_score`` (N,), and ``judge_points`` (N, K, 2) and ``judge_sigma`` (N, K) in
        units of that look's crop.
    """
    graph, count = Graph(), len(cascade.scheme)
    image, boxes = graph.input("image", np.uint8), graph.input("boxes", np.float32)
    inputs: dict[str, tuple[type, list[int | str]]] = {
        "image": (np.uint8, ["height", "width", 3]),
        "boxes": (np.float32, ["faces", 4]),
    }
    sides: dict[str, list[int | str]] = {"keypoints": [count, 2], "sigma": [count]}
    angles = None
    if stage_one:
        angles, inputs["angles"] = graph.input("angles", np.float32), (np.float32, ["faces"])
        sides |= {"coarse": [count, 2], "coarse_sigma": [count], "score": []}
        sides |= {"judge_score": [], "judge_points": [count, 2], "judge_sigma": [count]}

    def face(turn: Value, _: object) -> list[Value]:
        angle = None if angles is None else angles.take(turn, 0)
        return _face(graph, cascade, image, boxes.take(turn, 0), angle)[: len(sides)]

    outputs = graph.loop(graph.size(boxes, 0), face, shapes=list(sides.values()))
    return graph.model(
        "cascade_kp",
        inputs,
        {name: (value, ["faces", *sides[name]]) for name, value in zip(sides, outputs, strict=True)},
        texts,
    )


class _Answer(NamedTuple):
    """What a network says of a crop, and of which crop."""

    frames: Frames
    said: Said


def _face(graph: Graph, cascade: Cascade, image: Value, box: Value, angle: Value | None) -> list[Value]:
    """Of the face in a (4,) box (K, 2) keypoints and (K,) sigma, the same of stage one, and the score.

    With an angle also what one look at the box says, as ``cascade_graph`` orders it.
    """
    config = cascade.config
    usable = crop_graph.usable(graph, image, box)
    # Any box in place of one that cannot be used, so that nothing stops; its points are thrown away.
    box = usable.where(box, graph.constant(np.array([0, 0, 1, 1], np.float32)))
    crop = crop_graph.working_crop(graph, image, box, config.working_face_px, config.working_context)
    inside = (box.reshape(2, 2) - crop.shift) / crop.scale
    turned = None if angle is None else crop_graph.rotation(graph, angle)
    said, rest = _Writer(graph, cascade, crop, turned).write(inside.reshape(4))
    scale = crop.scale
    length = (scale.take(0, 0) * scale.take(1, 0)).apply("Sqrt")
    found = [value * length if i % 2 else value * scale + crop.shift for i, value in enumerate(said)]
    return [usable.where(value, math.nan) for value in (*found, *rest)]


@dataclass(frozen=True)
class _Writer:
    """Writes what a cascade does with one face, in px of its working crop.

    Attributes:
        turned: (1, 2, 2) rotation by the face's roll, if that is told.
    """

    graph: Graph
    cascade: Cascade
    crop: Crop
    turned: Value | None

    def write(self, box: Value) -> tuple[list[Value], list[Value]]:
        """As ``Cascade.forward``, of a face in a (4,) box.

        Returns:
            Points (K, 2) and calibrated sigma (K,), and the same of stage one. And what has no place: the score, a
            scalar; where the roll is told, also what ``judge`` goes by.
        """
        config, size = self.cascade.config, self.cascade.config.coarse.input_px
        first = self._first(box)
        (frames, said), face = self._stage_one(box, first)
        points = said.points.reshape(-1, 2) * size
        side = frames.linear.take(0, 2).norm(1) * size
        coarse = crop_graph.apply(frames, points).reshape(-1, 2)
        spread = (said.log_sigma.apply("Exp") * side).reshape(-1)
        coarse_sigma = spread * self.graph.constant(self.cascade.coarse.sigma_scale)
        keypoints, sigma = coarse, coarse_sigma
        if self.cascade.regions:
            keypoints, sigma = self._fused(coarse, spread, *self._refine(frames, self._region_boxes(frames, points)))
        if config.label_offset:
            offset = frames.linear.take(0, 2) * (size * config.label_offset)
            keypoints, coarse = keypoints + offset, coarse + offset
        judged = [] if self.turned is None else self._judged(first)
        return [keypoints, sigma, coarse, coarse_sigma], [face.apply("Sigmoid").reshape(), *judged]

    # ------------------------------------------------------------------------------------------ stage one

    def _first(self, box: Value) -> _Answer:
        """The first pass at the box as it was given."""
        one = self.cascade.coarse
        net, _ = one.judge
        frames = self._turns(box, [0.0], net.config.input_px)
        return _Answer(frames, self._look(net, frames, last=one.passes == 1))

    def _turns(self, box: Value, angles: Sequence[float], size: int) -> Frames:
        """Crops of the box at some angles from the face's roll."""
        return crop_graph.face_frames(self.graph, box, angles, self.cascade.coarse.margin, size, self.turned)

    def _judged(self, first: _Answer) -> list[Value]:
        """As ``TorchRuntime.judge``: the score of a single look, its (K, 2) points and (K,) calibrated sigma."""
        one = self.cascade.coarse
        net, scale = one.judge
        said = first.said
        if one.passes == 1 and (one.views > 1 or one.both_ways):
            said = self._look(net, first.frames, last=False)
        sigma = said.log_sigma.apply("Exp").reshape(-1) * self.graph.constant(scale)
        return [said.face.apply("Sigmoid").reshape(), said.points.reshape(-1, 2), sigma]

    def _stage_one(self, box: Value, first: _Answer) -> tuple[_Answer, Value]:
        """As ``StageOne.forward``; the face logit is that of the first pass."""
        one = self.cascade.coarse
        net, _ = one.judge
        answer = self._sought(box, net, first)
        face = answer.said.face
        for left in range(one.passes - 1, 0, -1):
            said_by, net = net, net if left > 1 else one.net
            upright = self._upright(answer, said_by, net)
            answer = _Answer(upright, self._look(net, upright, last=left == 1))
        return self._reframed(answer) if one.look_again else answer, face

    def _look(self, net: KeypointNet, frames: Frames, *, last: bool) -> Said:
        """What a network says of one crop; in the last pass it may look several times."""
        one, size = self.cascade.coarse, net.config.input_px
        views = one.views if last else 1
        several = crop_graph.view_frames(self.graph, frames, 1, size, views)
        seen = crop_graph.sample(self.graph, self.crop, several, views, size)
        return _asked(self.graph, net, seen, views, one.flip if last and one.both_ways else None)

    def _sought(self, box: Value, net: KeypointNet, answer: _Answer) -> _Answer:
        """The first pass: about the box or, where that is taken for no face, about the turn that is liked best."""
        one, size, graph = self.cascade.coarse, net.config.input_px, self.graph
        last = one.passes == 1
        if net.config.design is not None:  # a design likes no turn better than another
            return answer

        def turned() -> list[Value]:
            angles = [turn * (2 * math.pi / TURNS) for turn in range(1, TURNS)]
            others = self._turns(box, angles, size)
            said = network(graph, net, crop_graph.sample(graph, self.crop, others, len(angles), size))
            pairs = zip(_flat(answer), _flat(_Answer(others, said)), strict=True)
            every = [graph.concat(*pair, axis=0) for pair in pairs]
            liked = every[-1] >= every[-1].max(0, keep=True) - TIE  # of these the first
            best = graph.node("ArgMax", liked.cast(np.int32), dtype=np.int64, axis=0, keepdims=1)
            chosen = _answer([value.take(best, 0) for value in every])
            if last and (one.views > 1 or one.both_ways):  # sought by single looks
                chosen = _Answer(chosen.frames, self._look(net, chosen.frames, last=True))
            return _flat(chosen)

        return self._chosen((answer.said.face < SURE).reshape(), turned, answer)

    def _reframed(self, answer: _Answer) -> _Answer:
        """As ``StageOne._reframed``: a face that lies amiss in its crop is seen once more, upright."""
        one, net, frames = self.cascade.coarse, self.cascade.coarse.net, answer.frames
        size = net.config.input_px
        upright = self._upright(answer, net, net)
        corners = self.graph.constant(np.array([[0, 0], [size, 0], [0, size], [size, size]], np.float32))
        apart = Frames(upright.linear - frames.linear, upright.shift - frames.shift)
        amiss = crop_graph.apply(apart, corners).norm(2).max(1)
        side, other = (crops.linear.take(0, 2).norm(1) * size for crops in (frames, upright))
        again = (other < side * ABSURD) & (side < other * ABSURD) & (amiss > side * one.look_again)

        def better() -> list[Value]:
            return _flat(_Answer(upright, self._look(net, upright, last=True)))

        return self._chosen(again.reshape(), better, answer)

    def _upright(self, answer: _Answer, said_by: KeypointNet, seen_by: KeypointNet) -> Frames:
        """The upright crop, for one network, of the face that another one found."""
        one = self.cascade.coarse
        points = crop_graph.apply(answer.frames, answer.said.points * said_by.config.input_px)
        return crop_graph.upright_frames(self.graph, points, one.reference, one.margin, seen_by.config.input_px)

    def _chosen(self, condition: Value, other: Callable[[], list[Value]], answer: _Answer) -> _Answer:
        return _answer(self.graph.branch(condition, other, lambda: _flat(answer)))

    # ------------------------------------------------------------------------------------------ regions

    def _region_boxes(self, frames: Frames, points: Value) -> Value:
        """(R, 2, 2) low and high corners of the regions, px of stage one's crop, in which its (K, 2) points lie."""
        cascade, config = self.cascade, self.cascade.config
        if config.region_boxes == "boxes" and cascade.boxes is not None:
            full, size = config.coarse.input_px, cascade.boxes.config.input_px
            own = Frames(frames.linear * (full / size), frames.shift)
            said = network(self.graph, cascade.boxes, crop_graph.sample(self.graph, self.crop, own, 1, size))
            corners = (said.points * full).reshape(-1, 2, 2)
        else:
            regions = list(cascade.members.values())
            widest = max(map(len, regions))
            corners = points.take(np.array([region + region[:1] * (widest - len(region)) for region in regions]), 0)
        return self.graph.stack(corners.min(1), corners.max(1), axis=1)

    def _refine(self, frames: Frames, boxes: Value) -> tuple[Value, Value]:
        """As ``Cascade._refine``: the specialists' P points and sigmas, (P, 2) and (P,), one region after another."""
        cascade, graph, views = self.cascade, self.graph, self.cascade.config.views
        configs = {name: cascade.specialist(name).config for name in cascade.regions}
        crops = _region_frames(graph, frames, boxes, list(configs.values()))
        said: dict[str, Said] = {}
        for size in dict.fromkeys(config.net.input_px for config in configs.values()):
            names = [name for name, config in configs.items() if config.net.input_px == size]
            which = [list(configs).index(name) for name in names]
            taken = Frames(crops.linear.take(which, 0) * (1 / size), crops.shift.take(which, 0))
            several = crop_graph.view_frames(graph, taken, len(names), size, views)
            seen = crop_graph.sample(graph, self.crop, several, len(names) * views, size)
            for i, name in enumerate(names):
                own = seen.part(i * views, (i + 1) * views, 0)
                said[name] = _asked(graph, cascade.specialist(name).net, own, views, cascade.mirror.get(name))
        points, log_sigma = (
            graph.concat(*(said[name][i] for name in configs), axis=1).take(cascade.order, 1) for i in (0, 1)
        )
        region_of = [i for i, region in enumerate(cascade.members.values()) for _ in region]
        linear, shift = (value.take(region_of, 0) for value in crops)
        points = (linear * points.reshape(-1, 1, 2)).sum(2) + shift
        return points, log_sigma.reshape(-1).apply("Exp") * linear.take(0, 2).norm(1)

    def _fused(self, coarse: Value, coarse_sigma: Value, refined: Value, refined_sigma: Value) -> tuple[Value, Value]:
        """As ``Cascade.fuse``, of all points: (K, 2) and calibrated (K,)."""
        cascade = self.cascade
        every = [member for region in cascade.members.values() for member in region]
        modules = [cascade.specialist(name) for name in cascade.regions]
        share, scale = torch.zeros(len(cascade.scheme)), cascade.coarse.sigma_scale.clone()
        share[every] = torch.cat([module.fusion for module in modules])
        scale[every] = torch.cat([module.sigma_scale for module in modules])
        # Where each of the scheme's points is found among the specialists'; where it is not, its share is 0.
        place = np.zeros(len(cascade.scheme), np.int64)
        place[every] = np.arange(len(every))
        weight = self.graph.constant(share)
        keypoints = coarse + (refined.take(place, 0) - coarse) * weight.unsqueeze(1)
        log_sigma, other = coarse_sigma.apply("Log"), refined_sigma.take(place, 0).apply("Log")
        sigma = (log_sigma + (other - log_sigma) * weight).apply("Exp") * self.graph.constant(scale)
        return keypoints, sigma


def _flat(answer: _Answer) -> list[Value]:
    return [*answer.frames, *answer.said]


def _answer(values: Sequence[Value]) -> _Answer:
    return _Answer(Frames(*values[:2]), Said(*values[2:]))


def _asked(graph: Graph, net: KeypointNet, seen: Value, views: int, flip: list[int] | None) -> Said:
    """What a network says of one crop, (1, K, 2) and so on, of which it sees (views, 3, s, s)."""
    if flip is not None:
        mirrored = seen.take(np.arange(net.config.input_px)[::-1], 3)
        said = network(graph, net, graph.concat(seen, mirrored, axis=0))
        plain, other = (Said(*(value.part(i * views, (i + 1) * views, 0) for value in said)) for i in (0, 1))
        back = other.points.take(flip, 1) * graph.constant(np.array([-1, 1], np.float32))
        back += graph.constant(np.array([1, 0], np.float32))
        said = Said(
            (plain.points + back) * 0.5,
            (plain.log_sigma + other.log_sigma.take(flip, 1)) * 0.5,
            (plain.face + other.face) * 0.5,
        )
    else:
        said = network(graph, net, seen)
    if views == 1:
        return said
    moved = graph.constant(np.array(VIEWS[:views], np.float32)[:, None])
    return Said(*(value.mean(0, keep=True) for value in said._replace(points=said.points + moved)))


def _region_frames(graph: Graph, stage_one: Frames, boxes: Value, regions: Sequence[RegionConfig]) -> Frames:
    """As ``models.cascade.region_frames``: R frames, region crop units -> px of the working crop."""
    scale = [[-region.margin if region.mirror else region.margin, region.margin] for region in regions]
    low, high = boxes.take(0, 1), boxes.take(1, 1)
    side = (high - low).max(1, keep=True) * graph.constant(np.array(scale, np.float32))
    linear = stage_one.linear * side.unsqueeze(1)
    centre = crop_graph.apply(stage_one, (low + high) * 0.5).reshape(-1, 2)
    return Frames(linear, centre - linear.sum(2) * 0.5)
