"""Recipes: everything that decides what a trained model is, as typed TOML."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path

from cascade_kp.config import CascadeConfig, JitterConfig, PhotometricConfig, from_dict
from cascade_kp.errors import ConfigError

__all__ = ["DataConfig", "PartConfig", "Recipe", "load_recipe"]


@dataclass(frozen=True)
class DataConfig:
    """Which faces.

    Attributes:
        train: folders below the data root, joined.
        extra: further folders, of weaker labels.
        extra_share: share of the batches taken from ``extra``.
        extra_until: share of the steps after which ``extra`` is left out, so that the good labels have the last word.
        validation: name of a split list in ``datasets/``; its faces are taken out of ``train``.
    """

    train: tuple[str, ...]
    extra: tuple[str, ...] = ()
    extra_share: float = 0.0
    extra_until: float = 0.5
    validation: str = ""


@dataclass(frozen=True)
class PartConfig:
    """How one network is trained.

    Attributes:
        steps: optimiser steps.
        batch: faces a step.
        lr: peak learning rate of AdamW; it warms up linearly and falls by a cosine to 1 % of it.
        warmup: steps of the warm-up.
        weight_decay: of AdamW.
        ema: decay of the average of the weights, which is what is kept.
        clip: largest norm of the gradient.
        jitter: how crops are moved.
        photometric: what is done to the pixels.
        non_faces: share of each batch that shows no face (stage one only).
        sigma_weight: weight of the uncertainty's loss.
        face_weight: weight of the face score's loss.
    """

    steps: int = 10_000
    batch: int = 32
    lr: float = 1e-3
    warmup: int = 500
    weight_decay: float = 0.02
    ema: float = 0.999
    clip: float = 1.0
    jitter: tuple[JitterConfig, ...] = (JitterConfig(),)
    photometric: PhotometricConfig = field(default_factory=PhotometricConfig)
    non_faces: float = 0.0
    sigma_weight: float = 0.003
    face_weight: float = 0.02

    def __post_init__(self) -> None:
        if self.steps < 1 or self.batch < 2 or not self.jitter:
            raise ConfigError(
                "expected steps of at least 1, a batch of at least 2 and some jitter, "
                f"got steps {self.steps}, batch {self.batch}, {len(self.jitter)} components of jitter"
            )


@dataclass(frozen=True)
class Recipe:
    """A model's configuration, its data, and how each of its networks is trained.

    Attributes:
        name: of the model.
        scheme: name or path of its keypoint scheme.
        seed: of everything random.
        model: the cascade.
        data: the faces.
        coarse: training of stage one.
        boxes: training of the box network, where the model has one.
        regions: training of each specialist by region; a mirrored region has none of its own.
    """

    name: str
    model: CascadeConfig
    data: DataConfig
    coarse: PartConfig
    scheme: str = "ibug68"
    seed: int = 0
    boxes: PartConfig = field(default_factory=PartConfig)
    regions: dict[str, PartConfig] = field(default_factory=dict)


def load_recipe(name_or_path: str | Path) -> Recipe:
    """Read an embedded recipe by name, or a TOML file.

    Raises:
        ConfigError: no such recipe, not TOML, or a key that is unknown or of the wrong type.
    """
    path = Path(name_or_path)
    folder = resources.files("cascade_kp") / "assets" / "recipes"
    known = sorted(item.name.removesuffix(".toml") for item in folder.iterdir() if item.name.endswith(".toml"))
    if str(name_or_path) in known:
        text = (folder / f"{name_or_path}.toml").read_text(encoding="utf-8")
    elif path.is_file():
        text = path.read_text(encoding="utf-8")
    else:
        raise ConfigError(f"recipe: expected one of {known} or a TOML file, got {str(name_or_path)!r}")
    try:
        values = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"recipe {name_or_path}: not valid TOML: {error}") from error
    return from_dict(Recipe, values)
