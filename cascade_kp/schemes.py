"""Keypoint schemes: what the points of a face are called, and how they hang together.

A :class:`Scheme` is plain data that proves itself when it is made: a scheme that exists is one that can
be trained on, mirrored and merged. Embedded are ``ibug68``, ``ibug51``, ``kaggle15`` and three of noses; one's
own is a TOML file::

    name = "noses"                                # how the scheme calls itself
    keypoints = ["nose_tip", "left_nostril", "right_nostril", "left_eye", "right_eye"]

    inter_ocular = ["left_eye", "right_eye"]      # optional: the pair whose distance normalises errors
    inter_pupil = [["left_eye"], ["right_eye"]]   # optional: two groups, the distance of their means
    flip = [["left_eye", "right_eye"]]            # optional: pairs that change places in a mirrored face
    edges = [["left_nostril", "nose_tip", "right_nostril"]]   # optional: paths to draw; repeat the first
                                                              # name at the end to close one
    [regions]                                     # optional: parts that a specialist refines
    nose = ["nose_tip", "left_nostril", "right_nostril"]

What ``flip`` does not list is derived from the names: in ``mouth_left_corner`` the word ``left`` becomes
``right``, and the point of that name is its partner; a name with neither word lies on the midline. Points
in no region stay as stage one says. Left and right are the subject's. In TOML, write ``[regions]`` last:
what follows a table header belongs to that table.
"""

from __future__ import annotations

import difflib
import functools
import itertools
import operator
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np

from cascade_kp.errors import SchemeError
from cascade_kp.toml_values import parse_toml, read_toml

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

__all__ = ["Scheme", "available_schemes", "convert", "derive_flip", "load_scheme", "sources"]

_OTHER_SIDE = {"left": "right", "right": "left"}
_LONG = 80  # letters: what is longer is no misspelt name
_MOST_REGIONS = 256  # each is compared with each
# Region names become parts of tensor names ("regions.<region>.*"), where a dot would split them.
_REGION_NAME = re.compile(r"[A-Za-z0-9_-]+")


class _Regions(Mapping[str, tuple[int, ...]]):
    """An immutable mapping that, unlike ``MappingProxyType``, can be hashed, pickled and deep-copied."""

    __slots__ = ("_items",)

    def __init__(self, items: Mapping[str, tuple[int, ...]]) -> None:
        self._items = dict(items)

    def __getitem__(self, name: str) -> tuple[int, ...]:
        return self._items[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._items)

    def __len__(self) -> int:
        return len(self._items)

    def __hash__(self) -> int:
        return hash(frozenset(self._items.items()))

    def __reduce__(self) -> tuple[type[_Regions], tuple[dict[str, tuple[int, ...]]]]:
        return _Regions, (dict(self._items),)

    def __repr__(self) -> str:
        return repr(self._items)


@dataclass(frozen=True)
class Scheme:
    """Names, regions and symmetry of the K keypoints of a face.

    Attributes:
        name: How the scheme calls itself.
        keypoints: K unique names, in the order of the points' axis.
        regions: Region name -> indices of its points; disjoint, together at most all K.
        flip: (K,) permutation: point i of a mirrored face is the mirrored point ``flip[i]`` of the face.
        inter_ocular: Indices of the two outer eye corners, or None.
        inter_pupil: Two groups of indices whose means are the pupils, or None.
        edges: Pairs of indices joined by a line when drawn.

    Raises:
        SchemeError: The parts contradict each other; the message says which.
    """

    name: str
    keypoints: tuple[str, ...]
    regions: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    flip: tuple[int, ...] = ()
    inter_ocular: tuple[int, int] | None = None
    inter_pupil: tuple[tuple[int, ...], tuple[int, ...]] | None = None
    edges: tuple[tuple[int, int], ...] = ()

    def __post_init__(self) -> None:
        """Bring every field to its immutable form, then prove the whole."""
        _check_names(self.name, self.keypoints)
        put = functools.partial(object.__setattr__, self)
        put("keypoints", tuple(self.keypoints))
        if not isinstance(self.regions, Mapping):
            self._refuse(f"regions must map names to indices, got {type(self.regions).__name__}")
        put("regions", _Regions({key: self._indices(f"region {key!r}", value) for key, value in self.regions.items()}))
        # An empty flip asks for the one the names imply: most schemes never need to spell it out.
        put("flip", self._indices("flip", self.flip) or derive_flip(self.keypoints, scheme=self.name))
        if self.inter_ocular is not None:
            put("inter_ocular", self._indices("inter_ocular", self.inter_ocular))
        if self.inter_pupil is not None:
            put("inter_pupil", self._groups("inter_pupil", self.inter_pupil))
        put("edges", self._groups("edges", self.edges))
        self._check_regions()
        self._check_flip()
        self._check_rest()

    def __len__(self) -> int:
        """K, the number of keypoints."""
        return len(self.keypoints)

    def __str__(self) -> str:
        """One line: name, K, and the regions with their sizes."""
        regions = ", ".join(f"{name} {len(indices)}" for name, indices in self.regions.items())
        return f"{self.name} ({len(self)} keypoints; {regions or 'no regions'})"

    def index(self, name: str) -> int:
        """Index of a keypoint.

        Args:
            name: A keypoint name of this scheme.

        Returns:
            Its position on the points' axis.

        Raises:
            SchemeError: No keypoint has that name; the nearest is named.
        """
        try:
            return self.keypoints.index(name)
        except ValueError:
            self._refuse(f"no keypoint {name!r}{_nearest(name, self.keypoints)}")

    def region(self, name: str) -> tuple[int, ...]:
        """Indices of the points of a region.

        Args:
            name: A region name of this scheme.

        Returns:
            The indices, in the region's own order.

        Raises:
            SchemeError: No region has that name; the known ones and the nearest are named.
        """
        if name not in self.regions:
            known = ", ".join(self.regions) or "none"
            self._refuse(f"no region {name!r}{_nearest(str(name), self.regions)}; its regions: {known}")
        return self.regions[name]

    def flip_region(self, name: str) -> tuple[str, tuple[int, ...]]:
        """What a region becomes in the mirrored picture.

        With ``partner, p = scheme.flip_region(region)``, let ``points`` be the points of ``region`` in a
        picture of width W, in the region's order. In the mirrored picture (``x -> W - x``) these are the
        points of ``partner``, and the partner's i-th point is the mirror image of ``points[p[i]]``::

            mirrored_points_of_partner = mirror(points)[list(p)]

        In indices: ``regions[name][p[i]] == flip[regions[partner][i]]``. So one eye network serves both
        eyes: mirror the other eye's crop, predict, mirror the points back, reorder by ``p``.

        Args:
            name: A region name of this scheme.

        Returns:
            The partner's name (the same name for a region that mirrors onto itself) and the local
            permutation ``p``, as long as the region.

        Raises:
            SchemeError: No region has that name.
        """
        indices = self.region(name)
        partner = self._partner(name)
        place = {index: i for i, index in enumerate(indices)}
        return partner, tuple(place[self.flip[index]] for index in self.regions[partner])

    def to_dict(self) -> dict[str, Any]:
        """The scheme as JSON-safe data; :meth:`from_dict` gives the equal scheme back.

        Returns:
            Every field by name; tuples as lists, points as indices.
        """
        pupils = self.inter_pupil
        return {
            "name": self.name,
            "keypoints": list(self.keypoints),
            "regions": {name: list(indices) for name, indices in self.regions.items()},
            "flip": list(self.flip),
            "inter_ocular": None if self.inter_ocular is None else list(self.inter_ocular),
            "inter_pupil": None if pupils is None else [list(group) for group in pupils],
            "edges": [list(edge) for edge in self.edges],
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Scheme:
        """The scheme that :meth:`to_dict` wrote.

        Args:
            data: The fields by name; only ``name`` and ``keypoints`` are required.

        Returns:
            The scheme, proven.

        Raises:
            SchemeError: A key is unknown or missing, a value has the wrong type, or the parts contradict
                each other.
        """
        if not isinstance(data, Mapping):
            raise SchemeError(f"a scheme must be a mapping of fields, got {type(data).__name__}")
        _check_keys("scheme", data, [f.name for f in fields(cls)])
        return cls(**{str(key): value for key, value in data.items()})

    def _refuse(self, why: str) -> NoReturn:
        raise SchemeError(f"scheme {self.name!r}: {why}")

    def _indices(self, what: str, value: Iterable[Any]) -> tuple[int, ...]:
        """``value`` as a tuple of indices in range; refuses whatever is not."""
        if isinstance(value, str | bytes | Mapping) or not isinstance(value, Iterable):
            self._refuse(f"{what} must be a list of indices, got {value!r}")
        indices = []
        for item in value:
            try:
                index = operator.index(item)
            except TypeError:
                self._refuse(f"{what} must hold whole numbers, got {item!r}")
            if isinstance(item, bool) or not 0 <= index < len(self.keypoints):
                self._refuse(f"{what} must hold indices from 0 to {len(self.keypoints) - 1}, got {item!r}")
            indices.append(index)
        return tuple(indices)

    def _groups(self, what: str, value: Iterable[Any]) -> tuple[tuple[int, ...], ...]:
        """``value`` as a tuple of tuples of indices in range; refuses whatever is not."""
        if isinstance(value, str | bytes | Mapping) or not isinstance(value, Iterable):
            self._refuse(f"{what} must be a list of lists of indices, got {value!r}")
        return tuple(self._indices(f"an entry of {what}", group) for group in value)

    def _check_regions(self) -> None:
        if len(self.regions) > _MOST_REGIONS:
            self._refuse(f"expected at most {_MOST_REGIONS} regions, got {len(self.regions):,}")
        owner: dict[int, str] = {}
        for name, indices in self.regions.items():
            if not _is_region_name(name):
                self._refuse(f"a region name must be of letters, digits, '_' and '-', got {name!r}")
            if not indices:
                self._refuse(f"region {name!r} has no keypoints; leave it out")
            for index in indices:
                if index in owner:
                    self._refuse(
                        f"keypoint {self.keypoints[index]!r} is in region {owner[index]!r} and again in {name!r}; "
                        "a point may be refined by one specialist only, or putting the refined points back "
                        "would be ambiguous"
                    )
                owner[index] = name
            for side, other in _OTHER_SIDE.items():
                wrong = [self.keypoints[i] for i in indices if other in self.keypoints[i].split("_")]
                if side in name.split("_") and wrong:
                    self._refuse(f"region {name!r} holds {wrong[0]!r}; left and right are the subject's, in both names")

    def _check_flip(self) -> None:
        flip, names = self.flip, self.keypoints
        if len(flip) != len(names):
            self._refuse(f"flip must have one index per keypoint, {len(names)}, got {len(flip)}")
        for i, j in enumerate(flip):
            if flip[j] != i:
                self._refuse(
                    f"flip must undo itself, but it sends {names[i]!r} to {names[j]!r} and that to {names[flip[j]]!r}"
                )
            expected = _swap_sides(names[i])
            if expected != names[i] and names[j] != expected:
                self._refuse(f"flip must send {names[i]!r} to {expected!r}, but sends it to {names[j]!r}")
        for name in self.regions:
            self._partner(name)

    def _partner(self, name: str) -> str:
        """The region that ``name`` becomes in the mirrored picture."""
        mirrored = {self.flip[index] for index in self.regions[name]}
        partner = next((other for other, indices in self.regions.items() if set(indices) == mirrored), None)
        expected = _swap_sides(name)
        if partner is None or expected not in (name, partner):
            wanted = f"region {expected!r}" if expected != name else "one region"
            found = "no region has exactly the flipped points" if partner is None else f"it lands on {partner!r}"
            self._refuse(f"flip must map region {name!r} onto {wanted}, but {found}")
        return partner

    def _check_rest(self) -> None:
        # The annotations promise the lengths; a caller without a type checker may not have kept them.
        pair: tuple[int, ...] | None = self.inter_ocular
        pupils: tuple[tuple[int, ...], ...] | None = self.inter_pupil
        edges: tuple[tuple[int, ...], ...] = self.edges
        if pair is not None and (len(pair) != 2 or pair[0] == pair[1]):
            self._refuse(f"inter_ocular must be two different keypoints, got {pair!r}")
        if pupils is not None and (len(pupils) != 2 or not all(pupils) or set(pupils[0]) == set(pupils[1])):
            self._refuse(f"inter_pupil must be two different groups of at least one keypoint each, got {pupils!r}")
        for edge in edges:
            if len(edge) != 2 or edge[0] == edge[1]:
                self._refuse(f"an edge must join two different keypoints, got {edge!r}")


def available_schemes() -> tuple[str, ...]:
    """Names of the embedded schemes.

    Returns:
        The names :func:`load_scheme` knows, sorted.
    """
    folder = resources.files("cascade_kp") / "assets" / "schemes"
    return tuple(sorted(entry.name[:-5] for entry in folder.iterdir() if entry.name.endswith(".toml")))


def as_scheme(scheme: str | Path | Scheme) -> Scheme:
    """The scheme itself, or the one of that name or file (:func:`load_scheme`)."""
    return scheme if isinstance(scheme, Scheme) else load_scheme(scheme)


def load_scheme(name_or_path: str | Path) -> Scheme:
    """Load an embedded scheme by name, or one's own from a TOML file.

    Args:
        name_or_path: A name of :func:`available_schemes`, or a path ending in ``.toml`` (format: see the
            module's docstring).

    Returns:
        The scheme, proven.

    Raises:
        SchemeError: The name is unknown (the known ones are listed), the file cannot be read, or what it
            holds is not a scheme; the message names the file.
    """
    if isinstance(name_or_path, Path) or name_or_path.lower().endswith(".toml"):
        path = Path(name_or_path)
        try:
            values = read_toml(path)
        except (OSError, UnicodeDecodeError) as error:
            raise SchemeError(f"{path}: cannot read the scheme file: {error}") from error
        except ValueError as error:
            raise SchemeError(f"{path}: {error}") from error
        return _named_by(str(path), values)
    if name_or_path not in available_schemes():
        known = available_schemes()
        raise SchemeError(
            f"unknown scheme {name_or_path!r}{_nearest(name_or_path, known)}; "
            f"embedded schemes: {', '.join(known)}; one's own is a path ending in .toml"
        )
    return _load_embedded(name_or_path)


@functools.cache
def _load_embedded(name: str) -> Scheme:
    file = resources.files("cascade_kp") / "assets" / "schemes" / f"{name}.toml"
    return _named_by(f"{name}.toml", parse_toml(file.read_text(encoding="utf-8")))


def _named_by(source: str, values: Mapping[str, Any]) -> Scheme:
    """The scheme of a TOML document; what is wrong with it is told with the document's name."""
    try:
        return _from_toml(values)
    except SchemeError as error:
        raise SchemeError(f"{source}: {error}") from error


def _from_toml(data: Mapping[str, Any]) -> Scheme:
    """The scheme of a TOML document, in which points go by name."""
    _check_keys("scheme file", data, [f.name for f in fields(Scheme)])
    keypoints = data["keypoints"]
    _check_names(data["name"], keypoints)
    place = {name: i for i, name in enumerate(keypoints)}
    regions = data.get("regions", {})
    if not isinstance(regions, Mapping):
        raise SchemeError(f"regions must be a table of lists of keypoint names, got {regions!r}")
    # Scheme proves these two: to it they are only tuples of the length that the file gave.
    ocular: Any = _named("inter_ocular", data["inter_ocular"], place) if "inter_ocular" in data else None
    pupil: Any = _named_lists("inter_pupil", data, place) if "inter_pupil" in data else None
    return Scheme(
        name=data["name"],
        keypoints=tuple(keypoints),
        regions={name: _named(f"region {name!r}", names, place) for name, names in regions.items()},
        flip=derive_flip(keypoints, _named_flip(data, place), scheme=data["name"]),
        inter_ocular=ocular,
        inter_pupil=pupil,
        edges=_named_edges(data, place),
    )


def _named(what: str, names: object, place: Mapping[str, int]) -> tuple[int, ...]:
    """The indices of a list of keypoint names."""
    if not isinstance(names, list):
        raise SchemeError(f"{what} must be a list of keypoint names, got {names!r}")
    for name in names:
        if not isinstance(name, str) or name not in place:
            raise SchemeError(f"{what}: no keypoint {name!r}{_nearest(str(name), place)}")
    return tuple(place[name] for name in names)


def _named_lists(key: str, data: Mapping[str, Any], place: Mapping[str, int]) -> tuple[tuple[int, ...], ...]:
    """The indices of a list of lists of keypoint names."""
    value = data.get(key, [])
    if not isinstance(value, list):
        raise SchemeError(f"{key} must be a list of lists of keypoint names, got {value!r}")
    return tuple(_named(key, entry, place) for entry in value)


def _named_edges(data: Mapping[str, Any], place: Mapping[str, int]) -> tuple[tuple[int, int], ...]:
    """The edges along the paths of a scheme file."""
    edges: list[tuple[int, int]] = []
    for path in _named_lists("edges", data, place):
        if len(path) < 2:
            raise SchemeError(f"edges: a path must join at least two keypoints, got {len(path)}")
        edges += itertools.pairwise(path)
    return tuple(edges)


def _named_flip(data: Mapping[str, Any], place: Mapping[str, int]) -> dict[int, int]:
    """The mirror partners that a scheme file spells out."""
    fixed: dict[int, int] = {}
    for pair in _named_lists("flip", data, place):
        if len(set(pair)) != 2 or len(pair) != 2 or not fixed.keys().isdisjoint(pair):
            names = [data["keypoints"][i] for i in pair]
            raise SchemeError(f"flip must be pairs of two different keypoints, each named once, got {names!r}")
        fixed |= {pair[0]: pair[1], pair[1]: pair[0]}
    return fixed


def derive_flip(keypoints: Sequence[str], fixed: Mapping[int, int] | None = None, scheme: str = "") -> tuple[int, ...]:
    """The mirror permutation that the names imply.

    Args:
        keypoints: K names; ``left`` or ``right`` as a word between underscores tells the side.
        fixed: Index -> index of pairs that are known and not to be derived.
        scheme: Name of the scheme, for messages.

    Returns:
        (K,) the index of each point's mirror partner; itself where the name carries no side.

    Raises:
        SchemeError: A name carries a side, and its partner is not among the names.
    """
    place = {name: i for i, name in enumerate(keypoints)}
    flip = []
    for i, name in enumerate(keypoints):
        if fixed and i in fixed:
            flip.append(fixed[i])
            continue
        other = _swap_sides(name)
        if other not in place:
            raise SchemeError(
                f"scheme {scheme!r}: keypoint {name!r} has no mirror partner {other!r}{_nearest(other, place)}; "
                "every left point needs its right one, or mirrored faces could not be named"
            )
        flip.append(place[other])
    return tuple(flip)


# How a point that a source scheme does not name is made from points that it does: the mean of these.
_MADE_FROM: dict[str, tuple[str, ...]] = {"nose_tip": ("nose_bridge_4",)}
for _side in _OTHER_SIDE:
    _lids = tuple(f"{_side}_eye_{lid}_lid_{end}" for lid in ("upper", "lower") for end in ("outer", "inner"))
    _MADE_FROM[f"{_side}_eye_center"] = (f"{_side}_eye_outer_corner", f"{_side}_eye_inner_corner", *_lids)
    _MADE_FROM[f"{_side}_eyebrow_outer_end"] = (f"{_side}_eyebrow_1",)
    _MADE_FROM[f"{_side}_eyebrow_inner_end"] = (f"{_side}_eyebrow_5",)


def convert(points: ArrayLike, source: Scheme, target: Scheme) -> NDArray[Any]:
    """Express points of one scheme in another that asks for no more than the first can tell.

    Points of the same name are taken over; the eye centre is the mean of its six contour points, the
    nose tip is the last point of the bridge, the ends of a brow are its first and last point. So
    ibug68 -> ibug51, ibug68 -> kaggle15 and ibug51 -> kaggle15 work, and so does a subset of one's own.

    Args:
        points: (..., K, 2) points of ``source`` in any frame; NaN is missing.
        source: The scheme the points are in, of K keypoints.
        target: The scheme wanted, of M keypoints.

    Returns:
        (..., M, 2) in the same frame and floating dtype (whole numbers become float64); a new array. A
        point made from several is NaN if any of them is.

    Raises:
        SchemeError: The shape does not fit ``source``, or ``target`` has points that ``source`` cannot
            tell.
    """
    array = np.asarray(points)
    if not np.issubdtype(array.dtype, np.floating):
        array = array.astype(np.float64)
    if array.shape[-2:] != (len(source), 2):
        raise SchemeError(f"points of {source.name!r} must be (..., {len(source)}, 2), got {array.shape}")
    made_from = sources(source.keypoints, target.keypoints)
    missing = [name for name, places in zip(target.keypoints, made_from, strict=True) if not places]
    if missing:
        more = f" and {len(missing) - 5} more" if len(missing) > 5 else ""
        raise SchemeError(
            f"cannot convert {source.name!r} to {target.name!r}: the first does not tell {', '.join(missing[:5])}{more}"
        )
    return np.stack([array[..., list(places), :].mean(axis=-2) for places in made_from], axis=-2)


def sources(known: Sequence[str], wanted: Sequence[str]) -> list[tuple[int, ...]]:
    """Of which known points each wanted one is the mean, as :func:`convert` makes it.

    Args:
        known: names of keypoints that there are.
        wanted: names of keypoints that are asked for.

    Returns:
        For each wanted point indices into ``known``; empty where these do not tell it.
    """
    place = {name: i for i, name in enumerate(known)}
    recipes = [(name,) if name in place else _MADE_FROM.get(name, (name,)) for name in wanted]
    return [tuple(place[name] for name in recipe) if place.keys() >= set(recipe) else () for recipe in recipes]


def _swap_sides(name: str) -> str:
    """``name`` with left for right and right for left, word by word between underscores."""
    return "_".join(_OTHER_SIDE.get(word, word) for word in name.split("_"))


def _is_region_name(name: object) -> bool:
    return isinstance(name, str) and _REGION_NAME.fullmatch(name) is not None


def _nearest(name: str, known: Iterable[str]) -> str:
    # Comparing two names takes a time that grows with the product of their lengths.
    close = difflib.get_close_matches(name[:_LONG], [word for word in known if len(word) <= _LONG], n=1)
    return f" (did you mean {close[0]!r}?)" if close else ""


def _check_keys(what: str, data: Mapping[str, Any], known: Collection[str]) -> None:
    for key in data:
        if key not in known:
            raise SchemeError(f"{what}: unknown key {key!r}{_nearest(str(key), known)}; keys: {', '.join(known)}")
    for key in ("name", "keypoints"):
        if key not in data:
            raise SchemeError(f"{what}: the key {key!r} is missing; found: {', '.join(map(str, data)) or 'nothing'}")


def _check_names(name: object, keypoints: object) -> None:
    if not isinstance(name, str) or not name.strip():
        raise SchemeError(f"the name of a scheme must be a non-empty string, got {name!r}")
    if not isinstance(keypoints, list | tuple) or not keypoints:
        raise SchemeError(f"scheme {name!r}: keypoints must be a non-empty list of names, got {keypoints!r}")
    seen: set[str] = set()
    for keypoint in keypoints:
        if not isinstance(keypoint, str) or not keypoint or keypoint != keypoint.strip():
            raise SchemeError(
                f"scheme {name!r}: a keypoint name must be a non-empty string without blanks around it, "
                f"got {keypoint!r}"
            )
        if keypoint in seen:
            raise SchemeError(f"scheme {name!r}: keypoint names must be unique, {keypoint!r} comes twice")
        seen.add(keypoint)
