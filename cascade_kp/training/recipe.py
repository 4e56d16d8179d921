"""Recipes: everything that decides what a trained model is, as typed TOML.

A recipe names the model, the data, and how each of its networks is trained. Settings of a training (``optim.lr``,
``steps``, ``[loss]`` ...) that stand at the top of a recipe hold for every network; what stands in ``[coarse]``,
``[boxes]`` or ``[regions.<region>]`` holds for that one. Every setting can be overridden by its dotted name.
"""

from __future__ import annotations

import copy
import dataclasses
import difflib
import math
import os
import types
import typing
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from cascade_kp.config import (
    CascadeConfig,
    JitterConfig,
    LossConfig,
    MissingPolicy,
    NetConfig,
    PhotometricConfig,
    check,
    from_dict,
)
from cascade_kp.errors import ConfigError
from cascade_kp.toml_values import parse_toml, read_toml

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from importlib.resources.abc import Traversable

__all__ = [
    "DataConfig",
    "OptimConfig",
    "PartConfig",
    "Recipe",
    "RegionRecipe",
    "RunConfig",
    "ScheduleConfig",
    "available_recipes",
    "load_recipe",
    "override",
    "region_recipe",
    "setting_names",
]


@dataclass(frozen=True)
class DataConfig:
    """Which faces.

    Attributes:
        train: folders or annotation files below the data root, joined.
        extra: further ones, of weaker labels.
        extra_share: share of the batches taken from ``extra``.
        extra_until: share of the steps after which ``extra`` is left out, so that the good labels have the last word.
        validation: name of a split list in ``datasets/``; its faces are taken out of ``train``. Empty: a share of the
            pictures of ``train``, chosen by a hash of their names, always the same ones.
        missing: what becomes of faces with missing labels: ``mask`` leaves these points out of the loss, ``drop``
            leaves such faces out, ``mean``, ``median`` and ``previous`` fill the gaps in.
        teacher: a model's name or file, of the same scheme, whose answers are learnt too (distillation); none if empty.
        teacher_share: of its answers in the labels of ``train``. On ``extra`` they replace the labels.
        validation_share: that share, where there is no list: 0.15 splits 85:15.
        validation_seed: another one chooses other pictures.
        folds: so many parts of about the same size in place of that share, one of which is for validation; 0 for none.
        fold: which, from 0.
        labels: name or path of the scheme of the labels where it is not the recipe's; they are converted to it.
        frame: of annotation files that do not state it, as of :func:`cascade_kp.read_samples`; empty if all do.
        images: folder below the data root of the pictures that annotation files name; empty for the files' own.
    """

    train: tuple[str, ...]
    extra: tuple[str, ...] = ()
    extra_share: float = 0.0
    extra_until: float = 0.5
    validation: str = ""
    missing: MissingPolicy = "mask"
    teacher: str = ""
    teacher_share: float = 0.5
    validation_share: float = 0.1
    validation_seed: int = 0
    folds: int = 0
    fold: int = 0
    labels: str = ""
    frame: str = ""
    images: str = ""

    def __post_init__(self) -> None:
        check(bool(self.train), "train", "at least one folder", "none")
        for name in ("extra_share", "extra_until", "teacher_share"):
            check(0.0 <= getattr(self, name) <= 1.0, name, "0 to 1", getattr(self, name))
        share = self.validation_share
        check(0.0 < share < 1.0, "validation_share", "between 0 and 1", share)
        check(self.folds == 0 or self.folds >= 2, "folds", "0, or at least 2", self.folds)
        check(not (self.folds and self.validation), "folds", "0 beside a validation list", self.folds)
        check(0 <= self.fold < max(1, self.folds), "fold", f"0 to {max(1, self.folds) - 1}", self.fold)


@dataclass(frozen=True)
class OptimConfig:
    """The optimiser.

    Attributes:
        name: which one.
        lr: peak learning rate.
        weight_decay: of weights, not of biases and norms; decoupled for ``adamw``.
        momentum: of ``sgd`` (Nesterov) and ``rmsprop``.
        betas: of ``adamw`` and ``adam``.
        clip: largest norm of the gradient; 0 does not clip.
    """

    name: Literal["adamw", "adam", "sgd", "rmsprop"] = "adamw"
    lr: float = 1e-3
    weight_decay: float = 0.02
    momentum: float = 0.9
    betas: tuple[float, ...] = (0.9, 0.999)
    clip: float = 1.0

    def __post_init__(self) -> None:
        check(0.0 < self.lr < math.inf, "lr", "above 0 and finite", self.lr)
        for name in ("weight_decay", "clip"):
            check(getattr(self, name) >= 0.0, name, "at least 0", getattr(self, name))
        check(0.0 <= self.momentum < 1.0, "momentum", "at least 0 and below 1", self.momentum)
        fine = len(self.betas) == 2 and all(0.0 <= beta < 1.0 for beta in self.betas)
        check(fine, "betas", "two numbers, at least 0 and below 1", self.betas)


@dataclass(frozen=True)
class ScheduleConfig:
    """How the learning rate moves.

    Attributes:
        name: ``cosine`` falls to ``floor`` along a cosine, ``one_cycle`` first rises along one, ``plateau`` falls
            when the validation error stands still, ``constant`` stays.
        warmup: steps of linear warm-up before, at most a fifth of all (``one_cycle`` has none: it rises itself).
        floor: smallest learning rate, as a share of the peak.
        rise: share of the steps in which ``one_cycle`` rises.
        patience: validations without a better one before ``plateau`` multiplies the rate by ``factor``.
        factor: of ``plateau``.
    """

    name: Literal["cosine", "one_cycle", "plateau", "constant"] = "cosine"
    warmup: int = 500
    floor: float = 0.01
    rise: float = 0.3
    patience: int = 3
    factor: float = 0.3

    def __post_init__(self) -> None:
        check(self.warmup >= 0, "warmup", "at least 0", self.warmup)
        check(0.0 <= self.floor <= 1.0, "floor", "0 to 1", self.floor)
        check(0.0 < self.rise < 1.0, "rise", "between 0 and 1", self.rise)
        check(self.patience >= 0, "patience", "at least 0", self.patience)
        check(0.0 < self.factor < 1.0, "factor", "between 0 and 1", self.factor)


@dataclass(frozen=True)
class PartConfig:
    """How one network is trained.

    Attributes:
        steps: optimiser steps.
        epochs: passes through the training faces, in place of ``steps``; 0 takes ``steps``.
        batch: faces a step, of all processes together.
        optim: the optimiser.
        schedule: of its learning rate.
        loss: what is minimised.
        ema: decay of the average of the weights, which is what is kept; 0 keeps the weights themselves.
        patience: stop early after so many validations without a better one, and keep the best; 0 never.
        validate_every: steps between validations; a checkpoint is written at each.
        sheet_every: validations between sheets of predictions; 0 draws none.
        flip: probability of mirroring a face, left and right exchanged.
        placement: ``given`` moves training crops by ``jitter``; ``fitted`` (specialists only) by noise fitted to the
            errors of stage one's crops on held-out faces.
        jitter: how crops are moved.
        photometric: what is done to the pixels.
        non_faces: share of each batch that shows no face (stage one only).
        warm_start: a model's name or file: training starts from the weights of its network of the same name, which may
            have another ``input_px`` and differs in nothing else that has weights. Random weights if empty.
        ninefold: on top of ``jitter`` and ``photometric``, make of each face one of nine, by chance: itself, turned by
            quarters, with Gaussian, Poisson or salt-and-pepper noise, brighter, darker, moved, or blurred.
    """

    steps: int = 10_000
    epochs: int = 0
    batch: int = 32
    optim: OptimConfig = field(default_factory=OptimConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    ema: float = 0.999
    patience: int = 0
    validate_every: int = 500
    sheet_every: int = 4
    flip: float = 0.5
    placement: Literal["given", "fitted"] = "given"
    jitter: tuple[JitterConfig, ...] = (JitterConfig(),)
    photometric: PhotometricConfig = field(default_factory=PhotometricConfig)
    non_faces: float = 0.0
    warm_start: str = ""
    ninefold: bool = False

    def __post_init__(self) -> None:
        check(self.steps >= 1, "steps", "at least 1", self.steps)
        check(self.batch >= 2, "batch", "at least 2", self.batch)
        check(self.validate_every >= 1, "validate_every", "at least 1", self.validate_every)
        for name in ("epochs", "patience", "sheet_every"):
            check(getattr(self, name) >= 0, name, "at least 0", getattr(self, name))
        check(0.0 <= self.ema < 1.0, "ema", "at least 0 and below 1", self.ema)
        check(0.0 <= self.flip <= 1.0, "flip", "a probability, 0 to 1", self.flip)
        check(0.0 <= self.non_faces < 1.0, "non_faces", "at least 0 and below 1", self.non_faces)
        total = sum(part.share for part in self.jitter)
        check(total > 0.0, "jitter", "at least one component with a share above 0", f"{len(self.jitter)} of {total}")


@dataclass(frozen=True)
class RunConfig:
    """On what a training runs; only ``precision`` changes its result beyond rounding.

    Attributes:
        accelerator: ``auto`` takes a GPU where there is one.
        devices: processes on this machine, one a device; 0 takes what ``torchrun`` started, or one.
        nodes: machines; 0 takes what ``torchrun`` started, or one.
        precision: of the networks' arithmetic.
    """

    accelerator: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    devices: int = 0
    nodes: int = 0
    precision: Literal["32-true", "bf16-mixed", "16-mixed"] = "32-true"

    def __post_init__(self) -> None:
        for name in ("devices", "nodes"):
            check(getattr(self, name) >= 0, name, "at least 0", getattr(self, name))


@dataclass(frozen=True)
class Recipe:
    """A model's configuration, its data, and how each of its networks is trained.

    Attributes:
        name: of the model.
        model: the cascade.
        data: the faces.
        coarse: training of stage one.
        scheme: name or path of its keypoint scheme.
        seed: of everything random.
        boxes: training of the box network, where the model has one.
        regions: training of each specialist by region; a mirrored region has none of its own.
        run: on what it runs.
        licence: of the weights and of the data they come from, as the model file will say it.
        first: training of the network of the first passes, where that is one of its own.
        start: a model's name or file; networks that are configured as in it are taken from it and not trained. What is
            asked for beside the recipe comes before it.
    """

    name: str
    model: CascadeConfig
    data: DataConfig
    coarse: PartConfig = field(default_factory=PartConfig)
    scheme: str = "ibug68"
    seed: int = 0
    boxes: PartConfig = field(default_factory=PartConfig)
    regions: dict[str, PartConfig] = field(default_factory=dict)
    run: RunConfig = field(default_factory=RunConfig)
    licence: str = ""
    first: PartConfig = field(default_factory=PartConfig)
    start: str = ""

    def __post_init__(self) -> None:
        trained = sorted(name for name, region in self.model.regions.items() if not region.mirror)
        if trained != sorted(self.regions):
            raise ConfigError(f"regions: expected trainings for {trained}, got {sorted(self.regions)}")
        for name, part in (("coarse", self.coarse), ("first", self.first), ("boxes", self.boxes)):
            if part.placement != "given":
                raise ConfigError(f"{name}.placement: expected 'given', which stage one needs, got 'fitted'")
        if self.model.first is not None and self.coarse.non_faces:
            share = self.coarse.non_faces
            raise ConfigError(f"coarse.non_faces: expected 0 where the network that judges is [first], got {share}")
        design = self.model.coarse.design
        if design is not None and self.coarse.non_faces:
            share = self.coarse.non_faces
            raise ConfigError(f"coarse.non_faces: expected 0, as the design {design.name!r} judges no box, got {share}")
        if self.model.boxes is not None and self.boxes.ninefold:
            raise ConfigError("boxes.ninefold: expected false, as a turned box has other corners, got true")

    @property
    def box_jitter(self) -> tuple[JitterConfig, ...]:
        """How the boxes that the model is given lie, in training: the jitter of the network that sees them first."""
        return (self.coarse if self.model.first is None else self.first).jitter


@dataclass(frozen=True)
class RegionRecipe:
    """How a region is retrained.

    Attributes:
        training: as in a recipe.
        net: the specialist's network; None keeps the model's.
        margin: side of its crop over the longer side of the region's box; None keeps the model's.
        seed: of everything random.
        run: on what it runs.
    """

    training: PartConfig
    net: NetConfig | None = None
    margin: float | None = None
    seed: int = 0
    run: RunConfig = field(default_factory=RunConfig)


def region_recipe(*, scratch: bool, epochs: int | None = None) -> RegionRecipe:
    """The recipe that retraining follows if nothing else is asked for.

    Args:
        scratch: for random weights to start from; otherwise gentler, for those of the model.
        epochs: passes through the training faces.
    """
    lr = 2e-3 if scratch else 4e-4
    training = PartConfig(
        epochs=epochs if epochs is not None else 60 if scratch else 15,
        batch=16,
        optim=OptimConfig(lr=lr),
        schedule=ScheduleConfig(name="one_cycle", rise=0.1, floor=0.001),
        loss=LossConfig(map_weight=0.3, map_sigma=0.45),
        ema=0.998,
        validate_every=500,
        placement="fitted",
    )
    return RegionRecipe(training)


T = TypeVar("T")
_RECIPES = resources.files("cascade_kp") / "assets" / "recipes"
_SHARED = frozenset(f.name for f in dataclasses.fields(PartConfig))
# Said for every network, these are meant for the ones that they exist for.
_FOR_REGIONS, _FOR_JUDGE = "placement", "non_faces"
# An explicit one of the first makes another setting give way, which would win otherwise.
_WINS: dict[str, tuple[str, object]] = {"steps": ("epochs", 0), "jitter": ("placement", "given")}


def available_recipes() -> tuple[str, ...]:
    """Names of the embedded recipes; those of other systems than ours begin with ``zoo/``."""
    return tuple(sorted([*_recipes_in(_RECIPES), *(f"zoo/{name}" for name in _recipes_in(_RECIPES / "zoo"))]))


def _recipes_in(folder: Traversable) -> list[str]:
    return [item.name.removesuffix(".toml") for item in folder.iterdir() if item.name.endswith(".toml")]


def load_recipe(name_or_path: str | Path, overrides: Sequence[tuple[str, str]] = ()) -> Recipe:
    """Read an embedded recipe by name, or a TOML file.

    Args:
        name_or_path: which recipe.
        overrides: pairs of a setting's dotted name and its value as text, such as ``("optim.lr", "3e-4")`` for every
            network or ``("coarse.batch", "64")`` for one.

    Raises:
        ConfigError: no such recipe, not TOML, or a key that is unknown or of the wrong type.
    """
    known = available_recipes()
    embedded = str(name_or_path) in known
    if not embedded and not os.path.isfile(name_or_path):  # noqa: PTH113 (a Path raises where a name is too long)
        raise ConfigError(f"recipe: expected one of {list(known)} or a TOML file, got {str(name_or_path)!r}")
    try:
        if embedded:
            values = parse_toml(_RECIPES.joinpath(*f"{name_or_path}.toml".split("/")).read_text("utf-8"))
        else:
            values = read_toml(Path(name_or_path))
    except (OSError, ValueError) as error:
        raise ConfigError(f"recipe {name_or_path}: not valid TOML: {error}") from error
    try:
        return _recipe(values, overrides)
    except ConfigError as error:
        raise ConfigError(f"recipe {name_or_path}: {error}") from error


def _recipe(values: dict[str, Any], overrides: Sequence[tuple[str, str]]) -> Recipe:
    model = values.get("model")
    if isinstance(model, dict) and any(f"{name}.".startswith("model.first.") for name, _ in overrides):
        model.setdefault("first", {})  # before what holds for every network is given to each
    return override(Recipe, _spread(values), overrides)


def _spread(values: dict[str, Any]) -> dict[str, Any]:
    """Give what a recipe says for every network to each of them, where it does not say otherwise."""
    shared = {key: values[key] for key in values if key in _SHARED}
    result = {key: value for key, value in values.items() if key not in _SHARED}
    model, regions = result.get("model"), result.get("regions", {})
    if not isinstance(model, dict) or not isinstance(regions, dict):
        return result  # refused later, with the right words
    found = model.get("regions", {})
    if not isinstance(found, dict):
        return result
    trained = [n for n, r in found.items() if not (isinstance(r, dict) and r.get("mirror"))]
    own = {key: value for key, value in shared.items() if key != _FOR_JUDGE}
    result["regions"] = {n: _merged(own, regions.get(n, {})) for n in [*trained, *(set(regions) - set(trained))]}
    own = {key: value for key, value in shared.items() if key != _FOR_REGIONS}
    for name in _whole_face(model):
        result[name] = _merged(own, result.get(name, {}))
        own = {key: value for key, value in own.items() if key != _FOR_JUDGE}
    return result


def _whole_face(model: object) -> tuple[str, ...]:
    """The trainings of networks that see the whole face, the one that judges boxes first."""
    return ("first", "coarse", "boxes") if isinstance(model, dict) and "first" in model else ("coarse", "boxes")


def _merged(under: Any, over: Any) -> Any:  # noqa: ANN401 (plain TOML values)
    if not (isinstance(under, dict) and isinstance(over, dict)):
        return over
    return {**copy.deepcopy(under), **{k: _merged(under[k], v) if k in under else v for k, v in over.items()}}


def override(kind: type[T], values: dict[str, Any], overrides: Sequence[tuple[str, str]]) -> T:
    """Build a configuration from plain values, some of them overridden by dotted names.

    Args:
        kind: the dataclass to build: :class:`Recipe`, or another with a ``training``.
        values: its plain values; changed in place.
        overrides: pairs of a dotted name and a value as text: a TOML value, or plain text for a string. The name of a
            training's setting alone (``optim.lr``) stands for that of every training in the configuration.

    Raises:
        ConfigError: an unknown name, with the nearest known one; or a value of the wrong type.
    """
    names = setting_names(kind, values)
    for name, text in overrides:
        if name not in names:
            near = difflib.get_close_matches(name, names, 1, 0.5)
            hint = f"; did you mean --{near[0]}?" if near else ""
            raise ConfigError(f"--{name}: unknown setting{hint}")
        value = _value(text)
        targets = [values]
        if name.split(".")[0] in _SHARED:
            whole = _whole_face(values.get("model"))
            stages = {_FOR_REGIONS: (), _FOR_JUDGE: whole[:1]}.get(name, whole)
            regions = [] if name == _FOR_JUDGE else list(values.get("regions", {}).values())
            targets = [values[part] for part in (*stages, "training") if part in values] + regions
        for target in targets:
            _put(target, name, value)
            table, _, last = name.rpartition(".")
            if last in _WINS and not any(other == f"{table}.{_WINS[last][0]}".strip(".") for other, _ in overrides):
                _put(target, f"{table}.{_WINS[last][0]}".strip("."), _WINS[last][1])
    return from_dict(kind, values)


def _value(text: str) -> object:
    """A TOML value; a number as other programs write it (``.001``); or the text itself."""
    try:
        return parse_toml(f"value = {text}")["value"]
    except ValueError:
        try:
            return float(text)
        except ValueError:
            return text


def _put(target: dict[str, Any], name: str, value: object) -> None:
    *tables, last = name.split(".")
    for table in tables:
        target = target.setdefault(table, {})
        if not isinstance(target, dict):
            raise ConfigError(f"--{name}: expected {table!r} to be a table, got {target!r}")
    target[last] = value


def setting_names(kind: type[typing.Any], values: dict[str, Any]) -> tuple[str, ...]:
    """Every dotted name that :func:`override` knows: tables and settings of a dataclass, and of the keys in use."""
    return tuple(dict.fromkeys([*_names(kind, values, ""), *_names(PartConfig, {}, "")]))


def _names(hint: Any, values: Any, prefix: str) -> Iterator[str]:  # noqa: ANN401 (a type, and plain TOML values)
    """Dotted names below a type, each with the prefix."""
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        hint = next(a for a in typing.get_args(hint) if a is not type(None))
    children: dict[str, Any] = {}
    if dataclasses.is_dataclass(hint):
        children = typing.get_type_hints(hint)
    elif typing.get_origin(hint) is dict and isinstance(values, dict):
        children = dict.fromkeys(values, typing.get_args(hint)[1])
    for key, child in children.items():
        yield prefix + key
        yield from _names(child, values.get(key) if isinstance(values, dict) else None, f"{prefix}{key}.")
