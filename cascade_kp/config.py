"""What a cascade *is*, as frozen dataclasses: no torch here, so that a recipe can be read without loading it.

Every configuration goes to and from plain JSON/TOML values with :func:`from_dict` and :func:`to_dict`, checked by
type; an unknown key is refused with the nearest known one.
"""

from __future__ import annotations

import dataclasses
import difflib
import types
import typing
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar, cast

from cascade_kp.errors import ConfigError

__all__ = [
    "CascadeConfig",
    "JitterConfig",
    "NetConfig",
    "PhotometricConfig",
    "RegionConfig",
    "TrunkConfig",
    "from_dict",
    "to_dict",
]

T = TypeVar("T")


@dataclass(frozen=True)
class TrunkConfig:
    """A residual trunk: the ResNet design with its width, depth and number of stages free.

    Attributes:
        depth: 18 or 34 (basic blocks) or 50 (bottlenecks), which sets the blocks of each stage.
        width: channels of the first stage; 64 is the standard network.
        stages: how many of the four stages are kept; the trunk's stride is ``2 ** (stages + 1)``.
    """

    depth: Literal[18, 34, 50] = 18
    width: int = 64
    stages: int = 4

    def __post_init__(self) -> None:
        _check(self.depth in (18, 34, 50), "depth", "18, 34 or 50", self.depth)
        _check(self.width >= 1, "width", "at least 1", self.width)
        _check(1 <= self.stages <= 4, "stages", "1 to 4", self.stages)


@dataclass(frozen=True)
class NetConfig:
    """One network: a trunk on a square input, and a head.

    Attributes:
        input_px: side of its square input.
        trunk: the residual trunk.
        head: ``soft_argmax`` (expected position under a small heat map) or ``direct`` (pooled features to numbers).
        head_width: channels of the head's lateral features.
        head_stride: input px a heat-map cell covers (``soft_argmax`` only): 4, 8, 16 or 32, at most the trunk's.
    """

    input_px: int = 128
    trunk: TrunkConfig = field(default_factory=TrunkConfig)
    head: Literal["soft_argmax", "direct"] = "soft_argmax"
    head_width: int = 64
    head_stride: int = 8

    def __post_init__(self) -> None:
        stride = 2 ** (self.trunk.stages + 1)
        fits = stride <= self.input_px <= 1024 and self.input_px % stride == 0
        _check(fits, "input_px", f"a multiple of {stride}, at most 1024", self.input_px)
        _check(self.head in ("soft_argmax", "direct"), "head", "'soft_argmax' or 'direct'", self.head)
        _check(self.head_width >= 1, "head_width", "at least 1", self.head_width)
        if self.head == "soft_argmax":
            strides = [2 ** (i + 2) for i in range(self.trunk.stages)]
            _check(self.head_stride in strides, "head_stride", f"one of {strides}", self.head_stride)


@dataclass(frozen=True)
class RegionConfig:
    """One specialist.

    Attributes:
        net: its network.
        margin: side of its crop over the longer side of the region's box.
        mirror: feed it the mirrored crop. It then speaks its partner region's left and right, which is how one
            training on both eyes serves both.
    """

    net: NetConfig
    margin: float = 1.5
    mirror: bool = False

    def __post_init__(self) -> None:
        _check(1.0 <= self.margin <= 4.0, "margin", "1 to 4", self.margin)


@dataclass(frozen=True)
class CascadeConfig:
    """A whole model.

    Attributes:
        coarse: stage one, which predicts every keypoint.
        margin: side of stage one's crop over the longer side of the face box.
        passes: how often stage one runs; after the first time on the box and roll of its own last answer.
        regions: the specialists by region name, possibly none.
        boxes: a network that predicts only the box of each region in ``regions``, in their order; optional.
        region_boxes: where the regions are cropped: round stage one's ``points`` or in the ``boxes`` network's boxes.
        working_face_px: longer side of a face in the working crop, at most.
        working_context: side of the working crop over the longer side of the face box.
        max_doubt: a detected box is no face if the median sigma of its points exceeds this share of the root of their
            box's area; None does not ask. Depends on the scheme and is chosen on validation pictures.
    """

    coarse: NetConfig
    margin: float = 1.3
    passes: int = 1
    regions: dict[str, RegionConfig] = field(default_factory=dict)
    boxes: NetConfig | None = None
    region_boxes: Literal["points", "boxes"] = "points"
    working_face_px: int = 160
    working_context: float = 2.0
    max_doubt: float | None = None

    def __post_init__(self) -> None:
        _check(1.0 <= self.margin <= 4.0, "margin", "1 to 4", self.margin)
        _check(1 <= self.passes <= 4, "passes", "1 to 4", self.passes)
        _check(self.region_boxes in ("points", "boxes"), "region_boxes", "'points' or 'boxes'", self.region_boxes)
        _check(
            self.boxes is not None or self.region_boxes == "points",
            "region_boxes",
            "'points' when there is no [boxes] network",
            self.region_boxes,
        )
        _check(self.boxes is None or bool(self.regions), "boxes", "a model with regions", "no regions")
        _check(32 <= self.working_face_px <= 1024, "working_face_px", "32 to 1024", self.working_face_px)
        _check(1.0 <= self.working_context <= 4.0, "working_context", "1 to 4", self.working_context)
        _check(self.max_doubt is None or self.max_doubt > 0.0, "max_doubt", "above 0", self.max_doubt)


@dataclass(frozen=True)
class JitterConfig:
    """How far a training crop is moved from the true one: one component of a mixture.

    Attributes:
        share: weight of this component in the mixture.
        shift: standard deviation of the centre, in sides of the box, each axis.
        scale: standard deviation of the log of the side.
        angle_deg: standard deviation of the rotation, degrees.
        upright: turn the crop with the face first, as a later pass does; otherwise it stands as the picture does.
    """

    share: float = 1.0
    shift: float = 0.03
    scale: float = 0.05
    angle_deg: float = 5.0
    upright: bool = False

    def __post_init__(self) -> None:
        for f in dataclasses.fields(self):
            _check(getattr(self, f.name) >= 0.0, f.name, "at least 0", getattr(self, f.name))


@dataclass(frozen=True)
class PhotometricConfig:
    """What is done to the pixels of a training crop. Probabilities are per face.

    Attributes:
        brightness: standard deviation of the added level, of 255.
        contrast: standard deviation of the log of the factor round the mean.
        colour: standard deviation of the log of each channel's factor.
        grey: probability of taking the colour away.
        blur: probability of a Gaussian blur of up to ``blur_px``.
        blur_px: largest standard deviation of that blur, crop px.
        noise: largest standard deviation of Gaussian noise, of 255; drawn uniformly from 0.
        erase: probability of covering a random rectangle.
        erase_share: largest side of that rectangle, of the crop's side.
    """

    brightness: float = 0.12
    contrast: float = 0.25
    colour: float = 0.08
    grey: float = 0.15
    blur: float = 0.2
    blur_px: float = 1.5
    noise: float = 0.04
    erase: float = 0.4
    erase_share: float = 0.4

    def __post_init__(self) -> None:
        for f in dataclasses.fields(self):
            _check(getattr(self, f.name) >= 0.0, f.name, "at least 0", getattr(self, f.name))


def _check(fine: bool, key: str, expected: str, got: object) -> None:  # noqa: FBT001
    if not fine:
        raise ConfigError(f"{key}: expected {expected}, got {got!r}")


# ---------------------------------------------------------------------------------------------- to and from dict


def to_dict(config: Any) -> dict[str, Any]:  # noqa: ANN401 (any of the dataclasses)
    """A configuration as plain values, for TOML and JSON; ``None`` is left out, since TOML has no such thing."""

    def plain(value: object) -> object:
        if dataclasses.is_dataclass(value):
            pairs = ((f.name, getattr(value, f.name)) for f in dataclasses.fields(value))
            return {k: plain(v) for k, v in pairs if v is not None}
        if isinstance(value, dict):
            return {k: plain(v) for k, v in value.items()}
        if isinstance(value, (tuple, list)):
            return [plain(v) for v in value]
        return value

    return cast("dict[str, Any]", plain(config))


def from_dict(kind: type[T], values: object, where: str = "") -> T:
    """Build a configuration dataclass from plain values.

    Args:
        kind: the dataclass to build.
        values: a mapping of its keys.
        where: dotted name of the place, for messages.

    Raises:
        ConfigError: an unknown or missing key, a wrong type, or a value out of range; the message says where.
    """
    name = where or kind.__name__
    if not isinstance(values, dict):
        raise ConfigError(f"{name}: expected a table, got {type(values).__name__}")
    hints = typing.get_type_hints(kind)
    known = {f.name: f for f in dataclasses.fields(cast("Any", kind))}
    for key in values:
        if key not in known:
            near = difflib.get_close_matches(str(key), known, 1, 0.5)
            hint = f"; did you mean {near[0]!r}?" if near else f"; known keys: {', '.join(known)}"
            raise ConfigError(f"{name}: unknown key {key!r}{hint}")
    arguments = {k: _convert(hints[k], v, f"{where}.{k}" if where else k) for k, v in values.items()}
    for key, f in known.items():
        required = f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING
        if required and key not in arguments:
            raise ConfigError(f"{name}: missing key {key!r}")
    try:
        return kind(**arguments)
    except ConfigError as error:
        raise ConfigError(f"{where}.{error}" if where else str(error)) from None


def _convert(hint: Any, value: object, where: str) -> object:  # noqa: ANN401, PLR0911
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        if value is None and type(None) in args:
            return None
        inner = [a for a in args if a is not type(None)]
        return _convert(inner[0], value, where)
    if origin is Literal:
        if value in args and type(value) in {type(a) for a in args}:
            return value
        raise ConfigError(f"{where}: expected one of {list(args)}, got {value!r}")
    if dataclasses.is_dataclass(hint):
        return from_dict(cast("type[Any]", hint), value, where)
    if origin is dict:
        if not isinstance(value, dict):
            raise ConfigError(f"{where}: expected a table, got {type(value).__name__}")
        return {str(k): _convert(args[1], v, f"{where}.{k}") for k, v in value.items()}
    if origin is tuple:  # only tuple[X, ...] occurs
        if not isinstance(value, (list, tuple)):
            raise ConfigError(f"{where}: expected a list, got {type(value).__name__}")
        return tuple(_convert(args[0], v, f"{where}[{i}]") for i, v in enumerate(value))
    return _convert_plain(hint, value, where)


def _convert_plain(hint: Any, value: object, where: str) -> object:  # noqa: ANN401
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if isinstance(hint, type) and isinstance(value, hint) and not (hint is int and isinstance(value, bool)):
        return value
    raise ConfigError(f"{where}: expected {getattr(hint, '__name__', hint)}, got {value!r}")
