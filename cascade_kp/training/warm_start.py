"""Where a training starts that need not start from nothing: a trained network of the same make."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from cascade_kp.errors import ConfigError
from cascade_kp.models.heads import KeypointNet
from cascade_kp.schemes import Scheme, sources
from cascade_kp.training.assemble import network_weights
from cascade_kp.weights import load_model

if TYPE_CHECKING:
    from torch import Tensor

    from cascade_kp.models.cascade import Cascade
    from cascade_kp.training.parts import Part

__all__ = ["warm_weights"]

# Tensors of which each keypoint has rows of its own: how many, and what they say of a point that is not known.
_ROWS = {
    "head.heat.weight": (1, 0.0),
    "head.heat.bias": (1, 0.0),
    "head.maps.weight": (1, 0.0),
    "head.maps.bias": (1, 0.0),
    "head.points.weight": (2, 0.0),
    "head.points.bias": (2, 0.5),
    "head.doubt.linear.weight": (1, 0.0),
    "head.doubt.linear.bias": (1, 0.0),
}


def warm_weights(model: str, part: Part, scheme: Scheme) -> dict[str, Tensor]:
    """The weights that a model's network of the same name lends to one that is to be trained.

    Both may be of different schemes: what a network says of a keypoint is taken over where the model has a keypoint of
    that name, or keypoints of which it is the mean (:func:`cascade_kp.schemes.convert`); of others it says nothing yet,
    which puts them in the middle. A region that the model does not have takes the first of its specialists that is
    made alike.

    Args:
        model: its name or file.
        part: the network to be trained; its ``input_px`` may be another one.
        scheme: of the part.

    Returns:
        Its whole state.

    Raises:
        ConfigError: the model has no such network, or one that is made otherwise.
        ModelError: there is no such model, or it cannot be read.
    """
    cascade, info = load_model(model)
    found = _lender(cascade, part)
    if found is None:
        raise ConfigError(f"{part.name}.warm_start: expected a model with a network {part.name!r}, got {model!r}")
    name, lent = found
    if not part.corners:
        region = name.removeprefix("regions.")
        members = range(len(info.scheme)) if region == name else info.scheme.region(region)
        known = [info.scheme.keypoints[i] for i in members]
        lent = _moved(lent, sources(known, [scheme.keypoints[i] for i in part.members]), len(known))
    wanted = KeypointNet(part.net, part.outputs, face_score=part.judges).state_dict()
    wrong = [key for key in wanted if key not in lent or lent[key].shape != wanted[key].shape]
    if wrong or len(lent) != len(wanted):
        what = f"{wrong[0]!r} is another" if wrong else "it has more of them"
        raise ConfigError(
            f"{part.name}.warm_start: expected weights of the same shapes in {model!r}, but {what}; "
            "only input_px and the keypoints may be others"
        )
    return {key: value.float() if value.is_floating_point() else value for key, value in lent.items()}


def _lender(cascade: Cascade, part: Part) -> tuple[str, dict[str, Tensor]] | None:
    """The network of a part's name, or for a region another that is made alike, with that one's name."""
    names = [part.name]
    if part.name.startswith("regions."):
        # One that sees mirrored crops names its points from the other side.
        regions = {f"regions.{n}": region for n, region in cascade.config.regions.items() if not region.mirror}
        alike = [
            name for name, region in regions.items() if replace(region.net, input_px=part.net.input_px) == part.net
        ]
        names = [*(name for name in names if name in regions), *alike]
    for name in names:
        weights = network_weights(cascade, name)
        if weights is not None:
            return name, weights
    return None


def _moved(lent: dict[str, Tensor], made_from: list[tuple[int, ...]], count: int) -> dict[str, Tensor]:
    """What a network of ``count`` keypoints knows, for one whose keypoints are means of those, or are unknown to it."""
    moved = dict(lent)
    for key in _ROWS.keys() & lent.keys():
        each, unknown = _ROWS[key]
        rows, judge = lent[key][: count * each], lent[key][count * each :]  # the last row may judge the face
        known = rows.unflatten(0, (count, each))
        made = [known[list(p)].mean(dim=0) if p else torch.full_like(known[0], unknown) for p in made_from]
        moved[key] = torch.cat([torch.cat(made), judge])
    return moved
