"""The systems that ``python -m benchmarks.zoo`` trains, row by row, and what their own reports say of them.

Nothing heavy is imported here: ``python -m benchmarks.readme`` asks for the rows as well.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final, Literal

__all__ = ["FLIPPED", "MISSING", "OURS", "RESOLUTIONS", "ROWS", "SHIPPED", "Report", "System", "trained"]


@dataclass(frozen=True)
class Report:
    """A figure that a system's own report tells, on pictures that are not ours.

    Attributes:
        what: ``mse`` (px squared) or ``rmse`` (px), at 96 px; ``auc`` and ``fr`` at 0.08 of the inter-ocular distance.
        value: of it; fractions for the last two.
        remark: whose it is, where the report is not clear.
    """

    what: Literal["mse", "rmse", "auc", "fr"]
    value: float
    remark: str = ""

    def __str__(self) -> str:
        """As the tables print it."""
        figure = f"{100 * self.value:.1f} %" if self.what in ("auc", "fr") else f"{self.value:.2f}"
        return f"{self.what.upper()} {figure}" + (f" ({self.remark})" if self.remark else "")


@dataclass(frozen=True)
class System:
    """A row: a recipe, with changes.

    Attributes:
        recipe: an embedded recipe, without ``zoo/``.
        faces: ``kaggle``, Kaggle-style faces; ``noses``; ``300w``.
        reports: figures of its own report.
        changes: settings that differ from the recipe.
    """

    recipe: str
    faces: Literal["kaggle", "noses", "300w"] = "kaggle"
    reports: tuple[Report, ...] = ()
    changes: dict[str, str] = field(default_factory=dict)


_MLP = (Report("rmse", 3.96, "one of the six"),)
_CNN = (Report("rmse", 2.32, "a CNN: this design or another"),)

RESOLUTIONS: Final = (32, 64, 96, 128)
"""Input of ``inception_nose`` in its study, px; 96 is the recipe itself."""


def _nose(px: int) -> System:
    # The working crop is a little larger than what is sampled from it.
    changes = {"model.coarse.input_px": str(px), "model.working_face_px": str(max(100, px + 4))}
    return System("inception_nose", "noses", changes=changes)


MISSING: Final = {
    "simple_cnn": "faces dropped",
    "simple_cnn_fill": "filled in from the face above",
    "simple_cnn_mean": "filled in by the mean",
    "simple_cnn_median": "filled in by the median",
    "simple_cnn_mask": "left out of the loss",
}
"""Rows that differ in nothing but what becomes of missing labels, in words."""

# Rows whose report drops or fills missing labels: each is there with our masked loss, too.
_DROPPED = (
    *(f"mlp_{hidden}{dropout}" for hidden in ("128", "500_100", "1000") for dropout in ("", "_dropout")),
    *("leaky_cnn", "leaky_cnn_ninefold", "resnet50_grey", "resnet50_median", "darknet53", "alexnet"),
)

# The ablations of the cascade paper, one change each.
_PAPER = {
    **{f"{count}_stage{'s' * (count > 1)}": {"model.coarse.design.stages": str(count)} for count in (1, 2)},
    "dense": {"model.coarse.design.dense": "[512]"},
    "sgd": {"optim.name": "sgd"},
    **{f"batch_{size}": {"batch": str(size)} for size in (64, 256)},
    "plain": {
        "flip": "0.0",
        "jitter": "[{ shift = 0.0, scale = 0.0, angle_deg = 0.0 }]",
        **{
            f"photometric.{name}": "0.0"
            for name in ("brightness", "contrast", "colour", "grey", "blur", "noise", "erase")
        },
    },
}

ROWS: Final[dict[str, System]] = {
    "mean_face": System("mean_face", reports=(Report("rmse", 4.0, "about"),)),
    **{
        f"mlp_{hidden}{dropout}": System(f"mlp_{hidden}{dropout}", reports=_MLP)
        for hidden in ("128", "500_100", "1000")
        for dropout in ("", "_dropout")
    },
    "simple_cnn": System("simple_cnn", reports=_CNN),
    "simple_cnn_fill": System("simple_cnn_fill", reports=_CNN),
    "simple_cnn_mean": System("simple_cnn", changes={"data.missing": "mean"}),
    "simple_cnn_median": System("simple_cnn", changes={"data.missing": "median"}),
    "simple_cnn_mask": System("simple_cnn_mask"),
    "leaky_cnn": System("leaky_cnn", reports=_CNN),
    "leaky_cnn_ninefold": System("leaky_cnn_ninefold", reports=_CNN),
    "ml_resnet": System("ml_resnet", reports=(Report("rmse", 2.10, "such a one"),)),
    "resnet50_grey": System("resnet50_grey"),
    "resnet50_grey_fill": System("resnet50_grey_fill"),
    "resnet50_median": System("resnet50_median", reports=(Report("mse", 1.82, "pretrained"),)),
    "darknet53": System("darknet53", reports=(Report("mse", 2.18),)),
    "alexnet": System("alexnet", reports=(Report("mse", 3.51),)),
    "inception_nose": System("inception_nose", "noses"),
    **{f"inception_nose_{px}px": _nose(px) for px in RESOLUTIONS if px != 96},
    "inception_nose_side": System("inception_nose_side", "noses"),
    "inception_nose_below": System("inception_nose_below", "noses"),
    **{f"{row}_mask": System(row, changes={"data.missing": "mask"}) for row in _DROPPED},
    "cascade_paper": System(
        "cascade_paper", "300w", (Report("auc", 0.387, "private 600"), Report("fr", 0.082, "private 600"))
    ),
    "cascade_paper_boxes": System(
        "cascade_paper_boxes", "300w", (Report("auc", 0.396, "private 600"), Report("fr", 0.071, "private 600"))
    ),
    "cascade_paper_jaw": System("cascade_paper_jaw", "300w"),
    **{f"cascade_paper_{name}": System("cascade_paper", "300w", changes=changes) for name, changes in _PAPER.items()},
}
"""Every recipe ``zoo/...``, and the studies made of them."""


OURS: Final = "kaggle15"
"""The embedded model beside them, which is measured as it ships and not trained."""

FLIPPED: Final = "kaggle15_flip"
"""The same, asked about the mirrored picture, too, as ``cascade-kp submit --flip`` asks it."""

SHIPPED: Final = (OURS, FLIPPED)
"""The rows that are not trained."""


def trained(result: Any) -> str:  # noqa: ANN401 (a result as JSON, or as readme.py wraps it)
    """What was trained of what the recipe asks for, in words."""
    epochs = result["epochs"]
    if not epochs["recipe"]:
        return f"as shipped: {epochs['steps']:,} steps of stage one, from `ibug68`"
    if result["settings"]["budget"] == "smoke":
        return f"smoke: {epochs['steps']} step{'s' if epochs['steps'] > 1 else ''}"
    reduced = "reduced: " if epochs["asked"] < epochs["recipe"] else ""
    early = ", stopped early" if epochs["stopped_early"] else ""
    half = ", in bfloat16" if result["settings"]["precision"] == "bf16-mixed" else ""
    return f"{reduced}{epochs['done']:.0f} of {epochs['recipe']} epochs{early}{half}"
