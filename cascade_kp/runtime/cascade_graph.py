"""A whole cascade as one ONNX graph: picture and boxes in, keypoints in the picture's frame out.

It does what ``Pipeline`` does with boxes that are given, face by face in a loop, so that memory does not grow with
their number. Most functions here write what the one of their name in :mod:`cascade_kp.models.cascade` does.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch

from cascade_kp.models.cascade import ABSURD, SURE, TURNS, VIEWS
from cascade_kp.runtime import crop_graph
from cascade_kp.runtime.crop_graph import Frames
from cascade_kp.runtime.graph import Graph
from cascade_kp.runtime.network_graph import Said, network

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    import onnx

    from cascade_kp.models.cascade import Cascade
    from cascade_kp.models.heads import KeypointNet
    from cascade_kp.runtime.crop_graph import Crop
    from cascade_kp.runtime.graph import Value

__all__ = ["cascade_graph"]


def cascade_graph(
    cascade: Cascade, texts: Mapping[str, str] | None = None, *, stage_one: bool = False
) -> onnx.ModelProto:
    """Write a cascade as an ONNX model.

    Args:
        cascade: in evaluation mode, its batch norms folded away.
        texts: what each input and output is, for whoever reads the file.
        stage_one: also answer what stage one said.

    Returns:
        A model with inputs ``image`` (H, W, 3) uint8 RGB and ``boxes`` (N, 4) float32 xyxy px, and outputs
        ``keypoints`` (N, K, 2) and ``sigma`` (N, K) float32 px, image frame; NaN for a box that
        ``geometry.check_boxes`` refuses. With ``stage_one`` also ``coarse`` (N, K, 2) and ``coarse_sigma`` (N, K), the
        same as stage one says them, and ``score`` (N,), the probability of a face.
    """
    graph, count = Graph(), len(cascade.scheme)
    image, boxes = graph.input("image", np.uint8), graph.input("boxes", np.float32)
    sides: dict[str, list[int | str]] = {"keypoints": [count, 2], "sigma": [count]}
    if stage_one:
        sides |= {"coarse": [count, 2], "coarse_sigma": [count], "score": []}
    outputs = graph.loop(
        graph.size(boxes, 0),
        lambda turn, _: _face(graph, cascade, image, boxes.take(turn, 0))[: len(sides)],
        shapes=list(sides.values()),
    )
    return graph.model(
        "cascade_kp",
        {"image": (np.uint8, ["height", "width", 3]), "boxes": (np.float32, ["faces", 4])},
        {name: (value, ["faces", *sides[name]]) for name, value in zip(sides, outputs, strict=True)},
        texts,
    )


class _Answer(NamedTuple):
    """What a network says of a crop, and of which crop."""

    frames: Frames
    said: Said


def _face(graph: Graph, cascade: Cascade, image: Value, box: Value) -> list[Value]:
    """Of the face in a (4,) box (K, 2) keypoints and (K,) sigma, the same of stage one, and the score."""
    config = cascade.config
    usable = crop_graph.usable(graph, image, box)
    # Any box in place of one that cannot be used, so that nothing stops; its points are thrown away.
    box = usable.where(box, graph.constant(np.array([0, 0, 1, 1], np.float32)))
    crop = crop_graph.working_crop(graph, image, box, config.working_face_px, config.working_context)
    inside = (box.reshape(2, 2) - crop.shift) / crop.scale
    *said, score = _cascade(graph, cascade, crop, inside.reshape(4))
    scale = crop.scale
    length = (scale.take(0, 0) * scale.take(1, 0)).apply("Sqrt")
    found = [value * length if i % 2 else value * scale + crop.shift for i, value in enumerate(said)]
    return [usable.where(value, math.nan) for value in (*found, score)]


def _cascade(graph: Graph, cascade: Cascade, crop: Crop, box: Value) -> list[Value]:
    """Points (K, 2) and calibrated sigma (K,), the same of stage one, all px of the working crop; and a score."""
    stage_one, config = cascade.coarse, cascade.config
    (frames, said), face = _stage_one(graph, cascade, crop, box)
    size = config.coarse.input_px
    points = said.points.reshape(-1, 2) * size
    side = frames.linear.take(0, 2).norm(1) * size
    coarse, coarse_sigma = crop_graph.apply(frames, points).reshape(-1, 2), said.log_sigma.apply("Exp") * side
    coarse_sigma = coarse_sigma.reshape(-1)
    keypoints, sigma = coarse, (calibrated := coarse_sigma * graph.constant(stage_one.sigma_scale))
    if cascade.regions:
        boxes = _region_boxes(graph, cascade, crop, frames, points)
        keypoints, sigma = _fused(graph, cascade, coarse, coarse_sigma, *_refine(graph, cascade, crop, frames, boxes))
    if config.label_offset:
        shift = frames.linear.take(0, 2) * (size * config.label_offset)
        keypoints, coarse = keypoints + shift, coarse + shift
    return [keypoints, sigma, coarse, calibrated, face.apply("Sigmoid").reshape()]


# ---------------------------------------------------------------------------------------------- networks


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


def _stage_one(graph: Graph, cascade: Cascade, crop: Crop, box: Value) -> tuple[_Answer, Value]:
    """As ``StageOne.forward``; the face logit is that of the first pass."""
    one = cascade.coarse
    net = one.net if one.first is None else one.first
    answer = _sought(graph, cascade, crop, box, net)
    face = answer.said.face
    for left in range(one.passes - 1, 0, -1):
        upright = _upright(graph, cascade, answer, net, net := net if left > 1 else one.net)
        answer = _Answer(upright, _look(graph, cascade, crop, net, upright, last=left == 1))
    return _reframed(graph, cascade, crop, answer) if one.look_again else answer, face


def _look(graph: Graph, cascade: Cascade, crop: Crop, net: KeypointNet, frames: Frames, *, last: bool) -> Said:
    """What a network says of one crop; in the last pass it may look several times."""
    one, size = cascade.coarse, net.config.input_px
    views = one.views if last else 1
    seen = crop_graph.sample(graph, crop, crop_graph.view_frames(graph, frames, 1, size, views), views, size)
    return _asked(graph, net, seen, views, one.flip if last and one.both_ways else None)


def _sought(graph: Graph, cascade: Cascade, crop: Crop, box: Value, net: KeypointNet) -> _Answer:
    """The first pass: what it says of the box; or, where it takes that for no face, of the turn that it likes best."""
    one, size = cascade.coarse, net.config.input_px
    last = one.passes == 1
    frames = crop_graph.face_frames(graph, box, [0.0], one.margin, size)
    answer = _Answer(frames, _look(graph, cascade, crop, net, frames, last=last))
    if net.config.design is not None:
        return answer

    def turned() -> list[Value]:
        angles = [turn * (2 * math.pi / TURNS) for turn in range(1, TURNS)]
        others = crop_graph.face_frames(graph, box, angles, one.margin, size)
        said = network(graph, net, crop_graph.sample(graph, crop, others, len(angles), size))
        every = [graph.concat(*pair, axis=0) for pair in zip(_flat(answer), _flat(_Answer(others, said)), strict=True)]
        best = graph.node("ArgMax", every[-1], dtype=np.int64, axis=0, keepdims=1)  # of equal ones the first
        chosen = _answer([value.take(best, 0) for value in every])
        if last and (one.views > 1 or one.both_ways):  # sought by single looks
            chosen = _Answer(chosen.frames, _look(graph, cascade, crop, net, chosen.frames, last=True))
        return _flat(chosen)

    return _chosen(graph, (answer.said.face < SURE).reshape(), turned, answer)


def _reframed(graph: Graph, cascade: Cascade, crop: Crop, answer: _Answer) -> _Answer:
    """As ``StageOne._reframed``: a face that lies amiss in its crop is seen once more, upright."""
    one, net = cascade.coarse, cascade.coarse.net
    size, frames = net.config.input_px, answer.frames
    upright = _upright(graph, cascade, answer, net, net)
    corners = graph.constant(np.array([[0, 0], [size, 0], [0, size], [size, size]], np.float32))
    apart = Frames(upright.linear - frames.linear, upright.shift - frames.shift)
    amiss = crop_graph.apply(apart, corners).norm(2).max(1)
    side, other = (crops.linear.take(0, 2).norm(1) * size for crops in (frames, upright))
    again = (other < side * ABSURD) & (side < other * ABSURD) & (amiss > side * one.look_again)

    def better() -> list[Value]:
        return _flat(_Answer(upright, _look(graph, cascade, crop, net, upright, last=True)))

    return _chosen(graph, again.reshape(), better, answer)


def _upright(graph: Graph, cascade: Cascade, answer: _Answer, said_by: KeypointNet, seen_by: KeypointNet) -> Frames:
    """The upright crop, for one network, of the face that another one found."""
    one = cascade.coarse
    points = crop_graph.apply(answer.frames, answer.said.points * said_by.config.input_px)
    return crop_graph.upright_frames(graph, points, one.reference, one.margin, seen_by.config.input_px)


def _chosen(graph: Graph, condition: Value, other: Callable[[], list[Value]], answer: _Answer) -> _Answer:
    return _answer(graph.branch(condition, other, lambda: _flat(answer)))


def _flat(answer: _Answer) -> list[Value]:
    return [*answer.frames, *answer.said]


def _answer(values: Sequence[Value]) -> _Answer:
    return _Answer(Frames(*values[:2]), Said(*values[2:]))


# ---------------------------------------------------------------------------------------------- regions


def _region_boxes(graph: Graph, cascade: Cascade, crop: Crop, frames: Frames, points: Value) -> Value:
    """(R, 2, 2) low and high corners of the regions, px of stage one's crop, in which its (K, 2) points lie."""
    config = cascade.config
    if config.region_boxes == "boxes" and cascade.boxes is not None:
        full, size = config.coarse.input_px, cascade.boxes.config.input_px
        own = Frames(frames.linear * (full / size), frames.shift)
        said = network(graph, cascade.boxes, crop_graph.sample(graph, crop, own, 1, size))
        corners = (said.points * full).reshape(-1, 2, 2)
    else:
        regions = list(cascade.members.values())
        widest = max(map(len, regions))
        corners = points.take(np.array([region + region[:1] * (widest - len(region)) for region in regions]), 0)
    return graph.stack(corners.min(1), corners.max(1), axis=1)


def _refine(graph: Graph, cascade: Cascade, crop: Crop, frames: Frames, boxes: Value) -> tuple[Value, Value]:
    """The P points of all specialists, (P, 2) and (P,) px of the working crop, regions one after another."""
    configs = {name: cascade.specialist(name).config for name in cascade.regions}
    crops = _region_frames(graph, frames, boxes, cascade)
    views = cascade.config.views
    said: dict[str, Said] = {}
    for size in dict.fromkeys(config.net.input_px for config in configs.values()):
        names = [name for name, config in configs.items() if config.net.input_px == size]
        which = [list(configs).index(name) for name in names]
        taken = Frames(crops.linear.take(which, 0) * (1 / size), crops.shift.take(which, 0))
        several = crop_graph.view_frames(graph, taken, len(names), size, views)
        seen = crop_graph.sample(graph, crop, several, len(names) * views, size)
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


def _region_frames(graph: Graph, stage_one: Frames, boxes: Value, cascade: Cascade) -> Frames:
    """As ``models.cascade.region_frames``: R frames, region crop units -> px of the working crop."""
    configs = [cascade.specialist(name).config for name in cascade.regions]
    scale = [[-config.margin if config.mirror else config.margin, config.margin] for config in configs]
    low, high = boxes.take(0, 1), boxes.take(1, 1)
    side = (high - low).max(1, keep=True) * graph.constant(np.array(scale, np.float32))
    linear = stage_one.linear * side.unsqueeze(1)
    centre = crop_graph.apply(stage_one, (low + high) * 0.5).reshape(-1, 2)
    return Frames(linear, centre - linear.sum(2) * 0.5)


def _fused(
    graph: Graph, cascade: Cascade, coarse: Value, coarse_sigma: Value, refined: Value, refined_sigma: Value
) -> tuple[Value, Value]:
    """Stage one's points and the specialists' become one: (K, 2) and calibrated (K,)."""
    every = [member for region in cascade.members.values() for member in region]
    modules = [cascade.specialist(name) for name in cascade.regions]
    share, scale = torch.zeros(len(cascade.scheme)), cascade.coarse.sigma_scale.clone()
    share[every], scale[every] = (
        torch.cat([values[i] for values in [(m.fusion, m.sigma_scale) for m in modules]]) for i in (0, 1)
    )
    # Where each of the scheme's points is found among the specialists'; where it is not, its share is 0.
    place = np.zeros(len(cascade.scheme), np.int64)
    place[every] = np.arange(len(every))
    weight = graph.constant(share)
    keypoints = coarse + (refined.take(place, 0) - coarse) * weight.unsqueeze(1)
    log_sigma, other = coarse_sigma.apply("Log"), refined_sigma.take(place, 0).apply("Log")
    sigma = (log_sigma + (other - log_sigma) * weight).apply("Exp") * graph.constant(scale)
    return keypoints, sigma
