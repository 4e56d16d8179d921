"""The small recipe that the tests of training share."""

from __future__ import annotations

import dataclasses

from cascade_kp.config import (
    CascadeConfig,
    JitterConfig,
    LossConfig,
    NetConfig,
    PhotometricConfig,
    RegionConfig,
    TrunkConfig,
)
from cascade_kp.schemes import load_scheme
from cascade_kp.training.recipe import DataConfig, OptimConfig, PartConfig, Recipe, ScheduleConfig

HELD_OUT = "held.txt"
SCHEME = load_scheme("ibug68")
NET = NetConfig(input_px=32, trunk=TrunkConfig(width=8, stages=3), head_width=16, head_stride=8)
PART = PartConfig(
    steps=120,
    batch=16,
    optim=OptimConfig(lr=1e-2),
    schedule=ScheduleConfig(warmup=5),
    loss=LossConfig(map_weight=0.1, map_sigma=0.5),
    ema=0.9,
    validate_every=60,
    sheet_every=0,
    jitter=(JitterConfig(shift=0.06, scale=0.08, angle_deg=5),),
    photometric=PhotometricConfig(erase=0, noise=0.01),
)
RECIPE = Recipe(
    name="tiny",
    seed=3,
    model=CascadeConfig(
        coarse=NET,
        regions={
            "right_eye": RegionConfig(net=NET),
            "left_eye": RegionConfig(net=NET, mirror=True),
            "mouth": RegionConfig(net=NET),
        },
        boxes=dataclasses.replace(NET, head="direct"),
        working_face_px=48,
    ),
    data=DataConfig(train=("synthetic",), validation=HELD_OUT),
    coarse=dataclasses.replace(PART, non_faces=0.125),
    boxes=PART,
    # Crops as far off as this stage one's are a harder task: longer.
    regions={"right_eye": dataclasses.replace(PART, placement="fitted", steps=180), "mouth": PART},
)
# The same with a network of its own for the first pass, which judges boxes; shorter.
_SHORT = dataclasses.replace(PART, steps=12, validate_every=6)
WITH_FIRST = dataclasses.replace(
    RECIPE,
    model=dataclasses.replace(
        RECIPE.model,
        first=NetConfig(input_px=32, trunk=TrunkConfig(width=8, stages=2), head_width=8, head_stride=4),
        passes=2,
        boxes=None,
    ),
    first=dataclasses.replace(_SHORT, non_faces=0.125, jitter=(JitterConfig(shift=0.1, scale=0.1, angle_deg=15),)),
    coarse=_SHORT,
    regions={"right_eye": dataclasses.replace(_SHORT, placement="fitted"), "mouth": _SHORT},
)
