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
    "DesignConfig",
    "DesignName",
    "JitterConfig",
    "LossConfig",
    "MissingPolicy",
    "NetConfig",
    "PhotometricConfig",
    "RegionConfig",
    "TrunkConfig",
    "check",
    "from_dict",
    "to_dict",
]

T = TypeVar("T")

# What becomes of labels that are missing; see cascade_kp.data.missing.
MissingPolicy = Literal["mask", "drop", "mean", "median", "previous"]

# The systems that this library descends from; what each is stands in cascade_kp.models.designs.
DesignName = Literal[
    "mean_face",
    "mlp",
    "simple_cnn",
    "leaky_cnn",
    "resnet50_grey",
    "alexnet",
    "darknet53",
    "inception_nose",
    "ml_resnet",
    "cascade_paper",
]

# The settings that each design has, with its own values.
_DESIGNS: dict[str, dict[str, Any]] = {
    "mean_face": {},
    "mlp": {"dense": (128,), "dropout": 0.0},
    "simple_cnn": {"dense": (512,), "dropout": 0.5, "width": 16},
    "leaky_cnn": {"dense": (500, 100), "dropout": 0.5, "width": 32},
    "resnet50_grey": {"dense": (), "dropout": 0.5, "stages": 4, "width": 64},
    "alexnet": {"dense": (4096, 4096), "dropout": 0.5},
    "darknet53": {"dense": (), "dropout": 0.0, "width": 32},
    "inception_nose": {"dense": (1024, 512, 128), "dropout": 0.0, "l2": (0.05, 0.02, 0.01), "width": 64},
    "ml_resnet": {"dense": (), "dropout": 0.0, "stages": 4, "width": 64},
    "cascade_paper": {"dense": (), "dropout": 0.5, "stages": 3, "width": 64},
}
# A header of a few kB must not ask for networks that take minutes to build.
_MOST_LAYERS = 16
MOST_REGIONS = 64

# Of fewer channels, the gradient of a strided 1x1 convolution overruns its memory in torch 2.15's CPU kernels.
_NARROWEST = 8


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
        check(self.depth in (18, 34, 50), "depth", "18, 34 or 50", self.depth)
        check(self.width >= 1, "width", "at least 1", self.width)
        check(1 <= self.stages <= 4, "stages", "1 to 4", self.stages)


@dataclass(frozen=True)
class DesignConfig:
    """A network of one of the systems that this library descends from, in place of a trunk and a head.

    A setting that is None takes the design's own value, so that none of them stays None but those that it has not.

    Attributes:
        name: which one.
        dense: units of the dense layers before the last one, in their order; possibly none.
        activations: what follows each of them, ``relu`` or ``sigmoid``; ``relu`` throughout by default.
        dropout: probability; after every dense layer in ``mlp`` and ``alexnet``, otherwise once, before the last.
        l2: for each of ``dense``, what the sum of the squares of its weights costs, beside a loss of px squared.
        stages: how many of the four residual stages are kept.
        width: channels of the first stage or convolution, which those of all others follow.
    """

    name: DesignName
    dense: tuple[int, ...] | None = None
    activations: tuple[Literal["relu", "sigmoid"], ...] | None = None
    dropout: float | None = None
    l2: tuple[float, ...] | None = None
    stages: int | None = None
    width: int | None = None

    def __post_init__(self) -> None:
        check(self.name in _DESIGNS, "name", f"one of {list(_DESIGNS)}", self.name)
        own = dict(_DESIGNS[self.name])
        if "dense" in own:
            dense = own["dense"] if self.dense is None else self.dense
            own["activations"] = ("relu",) * len(dense)
            own["l2"] = own.get("l2", ()) if dense == own["dense"] else ()
        for f in dataclasses.fields(self)[1:]:
            value = getattr(self, f.name)
            check(value is None or f.name in own, f.name, f"none, as {self.name!r} has no such setting", value)
            object.__setattr__(self, f.name, own.get(f.name) if value is None else value)
        if self.dense is None or self.activations is None or self.l2 is None or self.dropout is None:
            return
        count = len(self.dense)
        check(count <= _MOST_LAYERS, "dense", f"at most {_MOST_LAYERS} layers", count)
        check(all(units >= 1 for units in self.dense), "dense", "at least 1 unit in each", self.dense)
        check(len(self.activations) == count, "activations", f"one for each of {count} dense layers", self.activations)
        check(len(self.l2) in (0, count), "l2", f"one for each of {count} dense layers, or none", self.l2)
        check(all(weight >= 0.0 for weight in self.l2), "l2", "at least 0", self.l2)
        check(0.0 <= self.dropout < 1.0, "dropout", "at least 0 and below 1", self.dropout)
        check(self.stages is None or 1 <= self.stages <= 4, "stages", "1 to 4", self.stages)
        check(self.width is None or self.width >= _NARROWEST, "width", f"at least {_NARROWEST}", self.width)

    @property
    def grid(self) -> tuple[int, int]:
        """What the side of the input must be a multiple of, and at least, px."""
        if self.name in ("mean_face", "mlp"):
            return 1, 1
        if self.name == "alexnet":
            return 1, 67  # what its last pool still finds a cell in
        stride = 32 if self.stages is None else 2 ** (self.stages + 1)
        stride *= 2 if self.name == "cascade_paper" else 1  # its pool
        return stride, stride


@dataclass(frozen=True)
class NetConfig:
    """One network: a trunk on a square input, and a head; or a design.

    Attributes:
        input_px: side of its square input.
        trunk: the residual trunk.
        head: ``soft_argmax`` (expected position under a small heat map), ``simcc`` (expected position under two
            one-dimensional distributions, x and y) or ``direct`` (features to numbers).
        head_width: channels of the head's lateral features.
        head_stride: input px a heat-map cell covers (``soft_argmax`` only): 4, 8, 16 or 32, at most the trunk's.
        bins_per_px: cells of each distribution in an input px (``simcc`` only).
        design: a network of another system, which takes the place of trunk and head; these keep their defaults then.
    """

    input_px: int = 128
    trunk: TrunkConfig = field(default_factory=TrunkConfig)
    head: Literal["soft_argmax", "simcc", "direct"] = "soft_argmax"
    head_width: int = 64
    head_stride: int = 8
    bins_per_px: int = 2
    design: DesignConfig | None = None

    def __post_init__(self) -> None:
        if self.design is not None:
            self._check_design(self.design)
            return
        stride = 2 ** (self.trunk.stages + 1)
        fits = stride <= self.input_px <= 1024 and self.input_px % stride == 0
        check(fits, "input_px", f"a multiple of {stride}, at most 1024", self.input_px)
        heads = ("soft_argmax", "simcc", "direct")
        check(self.head in heads, "head", "'soft_argmax', 'simcc' or 'direct'", self.head)
        check(self.head_width >= 1, "head_width", "at least 1", self.head_width)
        check(1 <= self.bins_per_px <= 8, "bins_per_px", "1 to 8", self.bins_per_px)
        if self.head == "soft_argmax":
            strides = [2 ** (i + 2) for i in range(self.trunk.stages)]
            check(self.head_stride in strides, "head_stride", f"one of {strides}", self.head_stride)

    def _check_design(self, design: DesignConfig) -> None:
        stride, least = design.grid
        fits = least <= self.input_px <= 1024 and self.input_px % stride == 0
        expected = f"{least} to 1024" if stride == 1 else f"a multiple of {stride}, at most 1024,"
        check(fits, "input_px", f"{expected} for the design {design.name!r}", self.input_px)
        for f in dataclasses.fields(self):
            if f.name not in ("input_px", "design"):
                default = f.default if f.default is not dataclasses.MISSING else TrunkConfig()
                value = getattr(self, f.name)
                check(value == default, f.name, f"none beside the design {design.name!r}", value)


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
        check(1.0 <= self.margin <= 4.0, "margin", "1 to 4", self.margin)


@dataclass(frozen=True)
class CascadeConfig:
    """A whole model.

    Attributes:
        coarse: stage one, which predicts every keypoint.
        margin: side of stage one's crop over the longer side of the face box.
        passes: how often stage one runs; after the first time on the box and roll of its own last answer.
        first: the network of every pass but the last, which only has to find where the face lies and whether it is one;
            None takes ``coarse``. Needs two passes.
        look_again: after the last pass, a face that turns out to lie amiss in its crop, by more than this (the farthest
            corner of the crop from where it should be, in sides of the crop), is seen once more, upright; 0 never does.
        both_ways: the last pass, and the specialists of regions that are their own mirror image, also see their crops
            mirrored, and the two answers are averaged: twice the time.
        views: how often the last pass and the specialists see each crop, each time moved a little; their answers are
            averaged. 1, 3 or 5, which takes these networks as many times the time.
        label_offset: how far to the right of where they are seen the labels lie, in sides of stage one's crop along its
            x; added to every answer. Training on faces and their mirror images cannot learn it; chosen on validation
            faces.
        regions: the specialists by region name, possibly none.
        boxes: a network that predicts only the box of each region in ``regions``, in their order; optional.
        region_boxes: where the regions are cropped: round stage one's ``points`` or in the ``boxes`` network's boxes.
        working_face_px: longer side of a face in the working crop, at most.
        working_context: side of the working crop over the longer side of the face box.
        max_doubt: a detected box is no face if the median sigma of its points exceeds this share of the root of their
            box's area; None does not ask. Depends on the scheme and is chosen on validation pictures.
        whole_picture: the box that stage one is given is that of the whole picture, in training and by a pipeline to
            which nobody gives boxes or a detector: for systems that have none.
        within_face: where the box of the keypoints lies in a box of the embedded detector's, for a scheme of other
            parts of the face than that box is tight round: x0, y0, x1, y1 from its middle, in roots of its area, of an
            upright face. None takes the detector's box as it is.
    """

    coarse: NetConfig
    margin: float = 1.3
    passes: int = 1
    first: NetConfig | None = None
    look_again: float = 0.0
    both_ways: bool = False
    views: int = 1
    label_offset: float = 0.0
    regions: dict[str, RegionConfig] = field(default_factory=dict)
    boxes: NetConfig | None = None
    region_boxes: Literal["points", "boxes"] = "points"
    working_face_px: int = 160
    working_context: float = 2.0
    max_doubt: float | None = None
    whole_picture: bool = False
    within_face: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        check(1.0 <= self.margin <= 4.0, "margin", "1 to 4", self.margin)
        check(1 <= self.passes <= 4, "passes", "1 to 4", self.passes)
        check(self.first is None or self.passes > 1, "passes", "at least 2 with a [first] network", self.passes)
        check(0.0 <= self.look_again <= 1.0, "look_again", "0 to 1", self.look_again)
        check(abs(self.label_offset) <= 0.05, "label_offset", "-0.05 to 0.05", self.label_offset)
        check(self.views in (1, 3, 5), "views", "1, 3 or 5", self.views)
        check(self.region_boxes in ("points", "boxes"), "region_boxes", "'points' or 'boxes'", self.region_boxes)
        check(
            self.boxes is not None or self.region_boxes == "points",
            "region_boxes",
            "'points' when there is no [boxes] network",
            self.region_boxes,
        )
        check(self.boxes is None or bool(self.regions), "boxes", "a model with regions", "no regions")
        check(32 <= self.working_face_px <= 1024, "working_face_px", "32 to 1024", self.working_face_px)
        check(1.0 <= self.working_context <= 4.0, "working_context", "1 to 4", self.working_context)
        check(self.max_doubt is None or self.max_doubt > 0.0, "max_doubt", "above 0", self.max_doubt)
        judged = self.first is None or self.first.design is None
        check(judged, "first", "a network that can judge a box, which no design can", self.first)
        alone = not self.regions and self.passes == 1
        expected = "false in a model with regions or several passes"
        check(alone or not self.whole_picture, "whole_picture", expected, self.whole_picture)
        place = self.within_face
        fine = place is None or (len(place) == 4 and -4.0 <= place[0] < place[2] <= 4.0)
        fine = fine and (place is None or -4.0 <= place[1] < place[3] <= 4.0)
        check(fine, "within_face", "x0, y0, x1, y1 of -4 to 4 with x0 < x1 and y0 < y1", place)
        check(len(self.regions) <= MOST_REGIONS, "regions", f"at most {MOST_REGIONS}", len(self.regions))


@dataclass(frozen=True)
class JitterConfig:
    """How far a training crop is moved from the true one: one component of a mixture.

    Attributes:
        share: weight of this component in the mixture.
        shift: standard deviation of the centre (translation, box jitter), in sides of the box, each axis.
        scale: standard deviation of the log of the side (zoom).
        angle_deg: standard deviation of the rotation, degrees.
        any_angle: probability of a rotation drawn from the full circle instead.
        quarter_turns: probability of a further turn by 90, 180 or 270 degrees.
        shear_deg: standard deviation of the shear, degrees: the angle by which the crop's vertical leans.
        upright: turn the crop with the face first, as a later pass does; otherwise it stands as the picture does.
    """

    share: float = 1.0
    shift: float = 0.03
    scale: float = 0.05
    angle_deg: float = 5.0
    any_angle: float = 0.0
    quarter_turns: float = 0.0
    shear_deg: float = 0.0
    upright: bool = False

    def __post_init__(self) -> None:
        _check_numbers(self, ("any_angle", "quarter_turns"))


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
        poisson: probability of shot noise (Poisson).
        poisson_photons: fewest photons that make white; drawn log-uniformly up to 64 times as many.
        salt_pepper: probability of white and black pixels.
        salt_pepper_share: largest share of the pixels that they take; drawn uniformly from 0.
        jpeg: probability of JPEG compression.
        jpeg_quality: lowest quality, 1 to 95; drawn uniformly up to 95.
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
    poisson: float = 0.0
    poisson_photons: float = 60.0
    salt_pepper: float = 0.0
    salt_pepper_share: float = 0.03
    jpeg: float = 0.0
    jpeg_quality: int = 25
    erase: float = 0.4
    erase_share: float = 0.4

    def __post_init__(self) -> None:
        _check_numbers(self, ("grey", "blur", "poisson", "salt_pepper", "salt_pepper_share", "jpeg", "erase"))
        check(self.poisson_photons > 0, "poisson_photons", "above 0", self.poisson_photons)
        check(1 <= self.jpeg_quality <= 95, "jpeg_quality", "1 to 95", self.jpeg_quality)


@dataclass(frozen=True)
class LossConfig:
    """What training minimises. Lengths are in crop units: the side of the network's input is 1.

    Attributes:
        name: of the points' loss; ``star`` and ``simcc`` need a head that gives distributions.
        width: error beyond which ``wing`` is linear, and below which ``soft_wing`` is the error itself and
            ``smooth_l1`` and ``star`` are quadratic.
        curvature: how sharp the logarithm of ``wing`` and ``soft_wing`` is.
        reach: weight of the logarithm of ``soft_wing`` beyond the width, where its slope at an error ``x`` is
            ``reach / (curvature + x)``. As published, in px of a 256 px crop: width 2, reach 20, curvature 0.5.
        spread_weight: weight of the distribution's variance in ``star``; the authors' 1, on coordinates from -1 to 1,
            is 4 here.
        bin_sigma: standard deviation of the target distribution of ``simcc``, in bins.
        sigma_weight: weight of the uncertainty's own loss; ``rle`` trains it with the points and takes no other.
        face_weight: weight of the face score's loss.
        map_weight: beside any loss, weight of the divergence of each heat map from a Gaussian round its label; heads
            without heat maps take no notice.
        map_sigma: standard deviation of that Gaussian, in cells.
    """

    name: Literal["wing", "soft_wing", "mse", "l1", "smooth_l1", "star", "rle", "simcc"] = "wing"
    width: float = 0.04
    curvature: float = 0.008
    reach: float = 0.12
    spread_weight: float = 1.0
    bin_sigma: float = 3.0
    sigma_weight: float = 0.003
    face_weight: float = 0.02
    map_weight: float = 0.0
    map_sigma: float = 0.6

    def __post_init__(self) -> None:
        for name in ("width", "curvature", "reach", "bin_sigma", "map_sigma"):
            check(getattr(self, name) > 0.0, name, "above 0", getattr(self, name))
        for name in ("spread_weight", "map_weight", "sigma_weight", "face_weight"):
            check(getattr(self, name) >= 0.0, name, "at least 0", getattr(self, name))
        steep = self.reach > self.width + self.curvature
        check(steep, "reach", f"above width + curvature, {self.width + self.curvature:g}", self.reach)


def _check_numbers(config: Any, probabilities: tuple[str, ...]) -> None:  # noqa: ANN401 (any of the dataclasses)
    for f in dataclasses.fields(config):
        value = getattr(config, f.name)
        check(value >= 0.0, f.name, "at least 0", value)
        check(f.name not in probabilities or value <= 1.0, f.name, "a probability, 0 to 1", value)


def check(fine: bool, key: str, expected: str, got: object) -> None:  # noqa: FBT001
    """Refuse a setting's value: raises ConfigError unless it is fine, saying what was expected and what came."""
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
