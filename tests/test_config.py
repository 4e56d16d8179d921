from __future__ import annotations

import dataclasses
import json
from importlib import resources

import pytest

from cascade_kp.config import (
    CascadeConfig,
    DesignConfig,
    JitterConfig,
    LossConfig,
    NetConfig,
    PhotometricConfig,
    RegionConfig,
    TrunkConfig,
    from_dict,
    to_dict,
)
from cascade_kp.errors import ConfigError
from cascade_kp.schemes import load_scheme
from cascade_kp.training.recipe import (
    DataConfig,
    OptimConfig,
    PartConfig,
    Recipe,
    RunConfig,
    ScheduleConfig,
    load_recipe,
)

# One of each, every field off its default, and all of them together.
TRUNK = TrunkConfig(depth=34, width=24, stages=3)
NET = NetConfig(input_px=80, trunk=TRUNK, head="direct", head_width=16, head_stride=4)
DESIGN = DesignConfig("mlp", dense=(9, 8), activations=("relu", "sigmoid"), dropout=0.25, l2=(0.5, 0.25))
DESIGNED = NetConfig(input_px=50, design=DESIGN)
REGION = RegionConfig(net=NET, margin=1.7, mirror=True)
CASCADE = CascadeConfig(
    coarse=NET,
    margin=1.4,
    passes=2,
    first=NetConfig(input_px=64),
    look_again=0.2,
    both_ways=True,
    views=3,
    label_offset=0.01,
    regions={"right_eye": RegionConfig(net=NetConfig()), "left_eye": REGION},
    boxes=NetConfig(head="direct"),
    region_boxes="boxes",
    working_face_px=200,
    working_context=2.5,
    max_doubt=0.1,
)
JITTER = JitterConfig(
    share=0.3, shift=0.1, scale=0.2, angle_deg=11.0, any_angle=0.1, quarter_turns=0.2, shear_deg=3.0, upright=True
)
PHOTOMETRIC = PhotometricConfig(
    brightness=0.1, contrast=0.2, colour=0.3, grey=0.4, blur=0.5, blur_px=0.6, noise=0.7, erase=0.8, erase_share=0.9
)
DATA = DataConfig(("a", "b"), ("c",), 0.2, 0.7, "v.txt", "median", "ibug68", 0.4, 0.15, 3)
LOSS = LossConfig("soft_wing", 0.1, 0.2, 0.5, 7.0, 2.0, 0.01, 0.03, 0.2, 0.7)
OPTIM = OptimConfig("sgd", 0.1, 0.3, 0.8, (0.5, 0.6), 2.0)
SCHEDULE = ScheduleConfig("plateau", 2, 0.1, 0.4, 5, 0.6)
PART = PartConfig(
    steps=10,
    epochs=3,
    batch=4,
    optim=OPTIM,
    schedule=SCHEDULE,
    loss=LOSS,
    ema=0.9,
    patience=2,
    validate_every=7,
    sheet_every=1,
    flip=0.4,
    placement="fitted",
    jitter=(JITTER, JitterConfig()),
    photometric=PHOTOMETRIC,
    non_faces=0.25,
    ninefold=True,
)
RUN = RunConfig("cpu", 2, 3, "bf16-mixed")
GIVEN = dataclasses.replace(PART, placement="given", non_faces=0.0)
RECIPE = Recipe("r", CASCADE, DATA, GIVEN, "ibug51", 7, PartConfig(), {"right_eye": PART}, RUN)
ALL = [
    TRUNK,
    NET,
    DESIGN,
    DESIGNED,
    REGION,
    CASCADE,
    JITTER,
    PHOTOMETRIC,
    DATA,
    LOSS,
    OPTIM,
    SCHEDULE,
    PART,
    RUN,
    RECIPE,
]


def kinds(configs):
    return [type(config).__name__ for config in configs]


class TestRoundTrip:
    @pytest.mark.parametrize("config", ALL, ids=kinds(ALL))
    def test_through_json(self, config):
        assert from_dict(type(config), json.loads(json.dumps(to_dict(config)))) == config

    @pytest.mark.parametrize("config", ALL, ids=kinds(ALL))
    def test_says_every_field(self, config):
        names = [f.name for f in dataclasses.fields(config) if getattr(config, f.name) is not None]
        assert list(to_dict(config)) == names

    @pytest.mark.parametrize("kind", [TrunkConfig, NetConfig, JitterConfig, PhotometricConfig, PartConfig])
    def test_defaults(self, kind):
        assert from_dict(kind, {}) == kind()
        assert from_dict(kind, to_dict(kind())) == kind()

    def test_by_hand(self):
        assert to_dict(RegionConfig(net=NetConfig(input_px=64))) == {
            "net": {
                "input_px": 64,
                "trunk": {"depth": 18, "width": 64, "stages": 4},
                "head": "soft_argmax",
                "head_width": 64,
                "head_stride": 8,
                "bins_per_px": 2,
            },
            "margin": 1.5,
            "mirror": False,
        }

    def test_none_is_absent_and_both_are_read(self):
        config = CascadeConfig(coarse=NetConfig())
        values = to_dict(config)
        assert "boxes" not in values
        assert from_dict(CascadeConfig, values) == config
        assert from_dict(CascadeConfig, values | {"boxes": None}) == config

    def test_the_order_of_the_regions_stays(self):
        regions = {name: RegionConfig(net=NetConfig()) for name in ("mouth", "left_eye", "nose")}
        config = CascadeConfig(coarse=NetConfig(), regions=regions)
        assert list(from_dict(CascadeConfig, to_dict(config)).regions) == ["mouth", "left_eye", "nose"]

    def test_plain_values_are_copies(self):
        values = to_dict(CASCADE)
        values["regions"].clear()
        assert set(CASCADE.regions) == {"right_eye", "left_eye"}

    def test_frozen(self):
        with pytest.raises(dataclasses.FrozenInstanceError):
            TRUNK.width = 3


class TestTypes:
    def test_a_whole_number_is_a_float(self):
        config = from_dict(RegionConfig, {"net": {}, "margin": 2})
        assert config.margin == 2.0
        assert type(config.margin) is float

    @pytest.mark.parametrize(
        ("kind", "values", "message"),
        [
            (TrunkConfig, {"width": True}, "width: expected int, got True"),
            (TrunkConfig, {"width": 32.0}, "width: expected int, got 32.0"),
            (TrunkConfig, {"width": "32"}, "width: expected int, got '32'"),
            (TrunkConfig, {"width": None}, "width: expected int, got None"),
            (TrunkConfig, {"depth": 18.0}, "depth: expected one of .18, 34, 50., got 18.0"),
            (TrunkConfig, {"depth": "18"}, "depth: expected one of"),
            (TrunkConfig, [18], "TrunkConfig: expected a table, got list"),
            (RegionConfig, {"net": {}, "margin": True}, "margin: expected float, got True"),
            (RegionConfig, {"net": {}, "mirror": 1}, "mirror: expected bool, got 1"),
            (RegionConfig, {"net": 3}, "net: expected a table, got int"),
            (RegionConfig, {"net": {"trunk": {"width": "x"}}}, "net.trunk.width: expected int, got 'x'"),
            (CascadeConfig, {"coarse": {}, "regions": []}, "regions: expected a table, got list"),
            (CascadeConfig, {"coarse": {}, "regions": {"nose": 1}}, "regions.nose: expected a table, got int"),
            (CascadeConfig, {"coarse": {}, "boxes": 1}, "boxes: expected a table, got int"),
            (CascadeConfig, {"coarse": None}, "coarse: expected a table, got NoneType"),
            (DataConfig, {"train": "300w"}, "train: expected a list, got str"),
            (DataConfig, {"train": ["a", 3]}, r"train\[1\]: expected str, got 3"),
            (PartConfig, {"jitter": [{}, 4]}, r"jitter\[1\]: expected a table, got int"),
            (PartConfig, {"jitter": [{}, {"shift": "x"}]}, r"jitter\[1\].shift: expected float, got 'x'"),
        ],
    )
    def test_refuses(self, kind, values, message):
        with pytest.raises(ConfigError, match=message):
            from_dict(kind, values)


class TestKeys:
    @pytest.mark.parametrize(
        ("kind", "values", "message"),
        [
            (TrunkConfig, {"widht": 3}, "TrunkConfig: unknown key 'widht'; did you mean 'width'"),
            (NetConfig, {"trunk": {"stage": 3}}, "trunk: unknown key 'stage'; did you mean 'stages'"),
            (
                CascadeConfig,
                {"coarse": {}, "regions": {"nose": {"net": {"input": 64}}}},
                "regions.nose.net: unknown key 'input'; did you mean 'input_px'",
            ),
            (TrunkConfig, {"zzz": 3}, "unknown key 'zzz'; known keys: depth, width, stages"),
            (TrunkConfig, {3: 3}, "unknown key 3"),
            (CascadeConfig, {}, "CascadeConfig: missing key 'coarse'"),
            (CascadeConfig, {"coarse": {}, "regions": {"nose": {}}}, "regions.nose: missing key 'net'"),
            (Recipe, {"name": "r", "model": {"coarse": {}}, "coarse": {}}, "Recipe: missing key 'data'"),
        ],
    )
    def test_refuses(self, kind, values, message):
        with pytest.raises(ConfigError, match=message):
            from_dict(kind, values)


class TestRanges:
    @pytest.mark.parametrize(
        ("kind", "values", "message"),
        [
            (TrunkConfig, {"width": 0}, "width: expected at least 1, got 0"),
            (TrunkConfig, {"stages": 5}, "stages: expected 1 to 4, got 5"),
            (TrunkConfig, {"stages": 0}, "stages: expected 1 to 4, got 0"),
            (TrunkConfig, {"depth": 101}, "depth: expected one of .18, 34, 50., got 101"),
            (NetConfig, {"input_px": 100}, "input_px: expected a multiple of 32, at most 1024, got 100"),
            (NetConfig, {"input_px": 0}, "input_px: expected a multiple of 32, at most 1024, got 0"),
            (
                NetConfig,
                {"input_px": 40, "trunk": {"stages": 3}},
                "input_px: expected a multiple of 16, at most 1024, got 40",
            ),
            (NetConfig, {"head": "heat"}, "head: expected one of"),
            (NetConfig, {"head_width": 0}, "head_width: expected at least 1"),
            (NetConfig, {"head_stride": 32, "trunk": {"stages": 3}}, r"head_stride: expected one of \[4, 8, 16\]"),
            (NetConfig, {"head_stride": 2}, "head_stride: expected one of"),
            (RegionConfig, {"net": {}, "margin": 0.9}, "margin: expected 1 to 4, got 0.9"),
            (CascadeConfig, {"coarse": {}, "margin": 5.0}, "margin: expected 1 to 4"),
            (CascadeConfig, {"coarse": {}, "passes": 0}, "passes: expected 1 to 4"),
            (
                CascadeConfig,
                {"coarse": {}, "region_boxes": "boxes"},
                "region_boxes: expected 'points' when there is no",
            ),
            (CascadeConfig, {"coarse": {}, "boxes": {}}, "boxes: expected a model with regions, got 'no regions'"),
            (CascadeConfig, {"coarse": {}, "working_face_px": 8}, "working_face_px: expected 32 to 1024"),
            (CascadeConfig, {"coarse": {}, "working_context": 0.5}, "working_context: expected 1 to 4"),
            (
                CascadeConfig,
                {"coarse": {}, "within_face": [0.1, 0.2, 0.3]},
                "within_face: expected x0, y0, x1, y1 of -4 to 4 with",
            ),
            (CascadeConfig, {"coarse": {}, "within_face": [-1e308, -1, 1e308, 1]}, "within_face: expected x0"),
            (CascadeConfig, {"coarse": {}, "within_face": [-1, float("-inf"), 1, 1]}, "within_face: expected x0"),
            (
                CascadeConfig,
                {"coarse": {}, "regions": {f"r{i}": {"net": {}} for i in range(65)}},
                "regions: expected at most 64, got 65",
            ),
            (DesignConfig, {"name": "mlp", "dense": [1] * 17}, "dense: expected at most 16 layers, got 17"),
            (
                CascadeConfig,
                {"coarse": {}, "within_face": [0.3, 0.0, 0.1, 0.2]},
                "within_face: expected x0, y0, x1, y1",
            ),
            (JitterConfig, {"shift": -0.1}, "shift: expected at least 0, got -0.1"),
            (JitterConfig, {"scale": float("nan")}, "scale: expected at least 0, got nan"),
            (PhotometricConfig, {"erase": -1}, "erase: expected at least 0, got -1.0"),
            (
                CascadeConfig,
                {"coarse": {}, "regions": {"nose": {"net": {"trunk": {"width": -1}}}}},
                "regions.nose.net.trunk.width: expected at least 1, got -1",
            ),
        ],
    )
    def test_refuses_naming_the_place(self, kind, values, message):
        with pytest.raises(ConfigError, match=message):
            from_dict(kind, values)

    def test_the_direct_head_has_no_stride(self):
        assert NetConfig(head="direct", head_stride=1).head_stride == 1


def recipes():
    folder = resources.files("cascade_kp") / "assets" / "recipes"
    own, zoo = (
        sorted(item.name.removesuffix(".toml") for item in place.iterdir() if item.name.endswith(".toml"))
        for place in (folder, folder / "zoo")
    )
    return own + [f"zoo/{name}" for name in zoo]


class TestRecipes:
    @pytest.mark.parametrize("name", recipes())
    def test_embedded(self, name):
        recipe = load_recipe(name)
        scheme = load_scheme(recipe.scheme)
        assert recipe.name == name.removeprefix("zoo/")
        assert set(recipe.model.regions) <= set(scheme.regions)
        assert set(recipe.regions) == {key for key, region in recipe.model.regions.items() if not region.mirror}
        for key, region in recipe.model.regions.items():
            if region.mirror:  # it takes its partner's network, which must be another one's and exist
                partner = scheme.flip_region(key)[0]
                assert partner != key
                assert not recipe.model.regions[partner].mirror
        assert from_dict(Recipe, json.loads(json.dumps(to_dict(recipe)))) == recipe

    def test_there_is_one(self):
        assert "ibug68" in recipes()

    def test_a_file(self, tmp_path):
        path = tmp_path / "own.toml"
        path.write_text('name = "own"\n[model.coarse]\ninput_px = 64\n[data]\ntrain = ["x"]\n[coarse]\nsteps = 5\n')
        recipe = load_recipe(path)
        assert (recipe.name, recipe.scheme, recipe.model.coarse.input_px, recipe.coarse.steps) == (
            "own",
            "ibug68",
            64,
            5,
        )
        assert load_recipe(str(path)) == recipe

    @pytest.mark.parametrize(
        ("text", "message"), [("name = ", "not valid TOML"), ('name = "x"\nlr = 1', "unknown key 'lr'")]
    )
    def test_a_broken_file(self, tmp_path, text, message):
        path = tmp_path / "own.toml"
        path.write_text(text)
        with pytest.raises(ConfigError, match=message):
            load_recipe(path)

    def test_unknown(self):
        with pytest.raises(ConfigError, match=r"expected one of \[.*'ibug68'.*\] or a TOML file, got 'ibug86'"):
            load_recipe("ibug86")
