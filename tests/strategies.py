"""Hypothesis strategies that the tests share: points, boxes, schemes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from cascade_kp.schemes import Scheme, available_schemes, load_scheme

if TYPE_CHECKING:
    from numpy.typing import NDArray

LARGEST_PX = 5000.0


def coordinates(low: float = -LARGEST_PX, high: float = LARGEST_PX) -> st.SearchStrategy[float]:
    """A coordinate in px; a little outside the picture is possible."""
    return st.floats(low, high, allow_nan=False, width=64, allow_subnormal=False)


def point_sets(
    count: int | None = None, *, faces: int | None = None, missing: bool = False
) -> st.SearchStrategy[NDArray[np.float64]]:
    """(count, 2) points in px, or (faces, count, 2); 1 to 12 points if not said.

    With `missing`, some are NaN in both coordinates.
    """

    def of_count(k: int) -> st.SearchStrategy[NDArray[np.float64]]:
        shape = (k, 2) if faces is None else (faces, k, 2)
        points = hnp.arrays(np.float64, shape, elements=coordinates())
        if not missing:
            return points
        masks = hnp.arrays(np.bool_, (*shape[:-1], 1))
        return st.builds(lambda p, m: np.where(m, np.nan, p), points, masks)

    counts = st.integers(1, 12) if count is None else st.just(count)
    return counts.flatmap(of_count)


@st.composite
def boxes(draw: st.DrawFn, smallest: float = 2.0, largest: float = 2000.0) -> NDArray[np.float64]:
    """(4,) xyxy box in px, with sides from `smallest` to `largest`."""
    x, y = draw(coordinates(-1000, 3000)), draw(coordinates(-1000, 3000))
    w, h = draw(coordinates(smallest, largest)), draw(coordinates(smallest, largest))
    return np.array([x, y, x + w, y + h])


def embedded_schemes() -> st.SearchStrategy[Scheme]:
    """One of the schemes the package brings."""
    return st.sampled_from([load_scheme(name) for name in available_schemes()])


@st.composite
def made_schemes(draw: st.DrawFn) -> Scheme:
    """A scheme of left/right pairs and midline points in random order, cut into mirror-closed regions."""
    pairs, middle = draw(st.integers(1, 6)), draw(st.integers(0, 4))
    names = [f"{side}_ear_{i}" for i in range(pairs) for side in ("left", "right")]
    names += [f"middle_{i}" for i in range(middle)]
    names = draw(st.permutations(names))
    place = {name: i for i, name in enumerate(names)}
    regions: dict[str, tuple[int, ...]] = {}
    in_region = draw(st.integers(0, pairs))
    if in_region:
        for side in ("left", "right"):
            regions[f"{side}_ear"] = tuple(place[f"{side}_ear_{i}"] for i in draw(st.permutations(range(in_region))))
    if middle:
        regions["middle"] = tuple(place[f"middle_{i}"] for i in range(middle))
    edge = st.tuples(st.integers(0, len(names) - 1), st.integers(0, len(names) - 1)).filter(lambda e: e[0] != e[1])
    return Scheme(
        name=draw(st.text("abcxyz", min_size=1, max_size=8)),
        keypoints=tuple(names),
        regions=regions,
        inter_ocular=draw(st.none() | st.just((place["left_ear_0"], place["right_ear_0"]))),
        inter_pupil=draw(st.none() | st.just(((place["left_ear_0"],), (place["right_ear_0"],)))),
        edges=tuple(draw(st.lists(edge, max_size=4))),
    )


def schemes() -> st.SearchStrategy[Scheme]:
    """Any valid scheme."""
    return embedded_schemes() | made_schemes()
