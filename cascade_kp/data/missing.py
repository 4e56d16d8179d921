"""Labels that are missing: leave them out, leave their faces out, or fill them."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, get_args

import numpy as np
import torch
from torch import Tensor

from cascade_kp import geometry
from cascade_kp.config import MissingPolicy
from cascade_kp.errors import ConfigError, DataError, InputError

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["fill_missing", "refuse_unlabelled"]

_log = logging.getLogger(__name__)

_SHOWN = 5  # names in a message


def fill_missing(
    points: Tensor, policy: MissingPolicy, reference: Tensor, *, names: Sequence[str] | None = None
) -> tuple[Tensor, Tensor]:
    """Treat the missing labels of a data set by one of these policies.

    - ``mask``: they stay NaN, for a loss that skips them; only faces without any label go.
    - ``drop``: only faces with every point labelled stay.
    - ``mean``, ``median``: a missing point is put at the mean or median (a coordinate each) of that point over the
      faces that have it.
    - ``previous``: at the place it has in the nearest face above, in file order, that has it; where there is none
      above, in the nearest face below.

    Places are compared and put back in an upright frame: that of ``reference``, onto which each face's labelled
    points are laid by the least-squares similarity. So a filled point follows its face's place, size and roll, but
    not its pose and expression. Faces that cannot be laid onto it, with fewer than 2 labelled points or all of them
    at one place, go; how many is logged.

    Args:
        points: (N, K, 2) px, any frame of each face; NaN where not labelled. A point of which one coordinate is NaN
            is missing.
        policy: one of the above.
        reference: (K, 2) an upright shape, any unit; NaN points do not count in laying on.
        names: K names of the points, for messages.

    Returns:
        (M, K, 2) the points of the faces that stay, labelled ones bit for bit; and (M,) int64, which faces those are.

    Raises:
        ConfigError: the policy is unknown.
        InputError: the shapes do not fit each other.
        DataError: a point is labelled in no face (under a policy that fills: in none that stays), or no face stays.
    """
    known = get_args(MissingPolicy)
    if policy not in known:
        raise ConfigError(f"missing labels: expected a policy among {', '.join(known)}, got {policy!r}")
    if points.ndim != 3 or points.shape[2] != 2 or reference.shape != points.shape[1:]:
        shapes = f"{tuple(points.shape)} and {tuple(reference.shape)}"
        raise InputError(f"missing labels: expected points (N, K, 2) and a reference (K, 2), got {shapes}")
    if names is not None and len(names) != points.shape[1]:
        raise InputError(f"missing labels: expected {points.shape[1]} names of points, got {len(names)}")
    n, k = points.shape[:2]
    labelled = ~torch.isnan(points).any(dim=-1)
    counts = labelled.sum(dim=1)
    if not counts.any():
        raise DataError(f"missing labels: expected at least one labelled face, got {n} without any label")
    refuse_unlabelled(labelled, names, f"{n} faces")
    if policy == "mask":
        return _chosen(points, counts > 0)
    if policy == "drop":
        if not (counts == k).any():
            most = int(counts.max())
            raise DataError(
                f"missing labels: expected faces with all {k} points, as policy 'drop' keeps no others, "
                f"got at most {most} in {n} faces"
            )
        return _chosen(points, counts == k)
    return _filled(points, labelled, policy, reference, names)


def _chosen(points: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    kept = mask.nonzero().flatten()
    return points[kept], kept


def _filled(
    points: Tensor, labelled: Tensor, policy: MissingPolicy, reference: Tensor, names: Sequence[str] | None
) -> tuple[Tensor, Tensor]:
    n = len(points)
    to_upright = geometry.fit_similarity(points.double(), reference.double().expand(points.shape))
    usable = ~torch.isnan(to_upright).any(dim=-1).any(dim=-1)
    points, kept = _chosen(points, usable)
    if not len(kept):
        raise DataError(
            f"missing labels: expected faces with at least 2 labelled points, as policy {policy!r} needs, got {n} "
            "without"
        )
    if len(kept) < n:
        _log.warning(
            "missing labels: policy %r left out %d of %d faces, which have fewer than 2 labelled points or all at one "
            "place",
            policy,
            n - len(kept),
            n,
        )
    labelled, to_upright = labelled[kept], to_upright[kept]
    refuse_unlabelled(labelled, names, f"{len(kept)} faces with at least 2 labels")
    upright = torch.where(labelled[:, :, None], geometry.apply(to_upright, points.double()), torch.nan)
    if policy == "previous":
        values = upright.gather(0, _nearest_above(labelled)[:, :, None].expand(-1, -1, 2))
    else:
        average = np.nanmean if policy == "mean" else np.nanmedian
        values = torch.from_numpy(average(upright.numpy(), axis=0)).expand_as(upright)
    back = geometry.apply(geometry.invert(to_upright), values).to(points)
    return torch.where(labelled[:, :, None], points, back), kept


def _nearest_above(labelled: Tensor) -> Tensor:
    """(M, K) for each face and point the last face up to it with a label, or else the first of all."""
    faces = torch.arange(len(labelled))[:, None]
    last = torch.where(labelled, faces, -1).cummax(dim=0).values
    return torch.where(last >= 0, last, labelled.int().argmax(dim=0))


def refuse_unlabelled(labelled: Tensor, names: Sequence[str] | None, where: str) -> None:
    """Make sure that every point is labelled somewhere.

    Args:
        labelled: (N, K) bool.
        names: K names of the points, for the message.
        where: what the N faces are, for the message.

    Raises:
        DataError: a point is labelled in none of them.
    """
    nowhere = (~labelled.any(dim=0)).nonzero().flatten().tolist()
    if not nowhere:
        return
    told = [f"{i} ({names[i]})" if names else f"{i}" for i in nowhere[:_SHOWN]]
    more = f" and {len(nowhere) - _SHOWN} more" if len(nowhere) > _SHOWN else ""
    got = f"no label of {', '.join(told)}{more}"
    raise DataError(f"missing labels: expected every point labelled in at least one of {where}, got {got}")
