"""Recipes: their defaults for every network, and settings by dotted names."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path

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
from cascade_kp.training.recipe import (
    DataConfig,
    OptimConfig,
    PartConfig,
    Recipe,
    RunConfig,
    ScheduleConfig,
    available_recipes,
    load_recipe,
    override,
    setting_names,
)

TEXT = """
name = "two"
steps = 70
optim = { lr = 0.5 }
jitter = [{ shift = 0.2 }]

[data]
train = ["a"]

[model]
coarse = { input_px = 64 }
[model.regions]
right_eye = { net = { input_px = 64 } }
left_eye = { net = { input_px = 64 }, mirror = true }
mouth = { net = { input_px = 64 } }

[coarse]
steps = 90
optim = { weight_decay = 0.1 }

[regions.mouth]
optim = { lr = 0.25 }
"""


@pytest.fixture
def path(tmp_path):
    file = tmp_path / "two.toml"
    file.write_text(TEXT)
    return file


class TestLoading:
    def test_what_stands_at_the_top_holds_for_every_network(self, path):
        recipe = load_recipe(path)
        assert (recipe.coarse.steps, recipe.boxes.steps) == (90, 70)
        assert {name: part.steps for name, part in recipe.regions.items()} == {"right_eye": 70, "mouth": 70}
        assert recipe.coarse.optim == OptimConfig(lr=0.5, weight_decay=0.1)
        assert recipe.regions["mouth"].optim == OptimConfig(lr=0.25)
        assert recipe.coarse.jitter == (JitterConfig(shift=0.2),)

    def test_what_a_header_holds_is_a_recipe_again(self, path):
        recipe = load_recipe(path)
        assert from_dict(Recipe, json.loads(json.dumps(to_dict(recipe)))) == recipe

    @pytest.mark.parametrize("name", available_recipes())
    def test_embedded(self, name):
        recipe = load_recipe(name)
        assert recipe.name == name.removeprefix("zoo/")
        assert recipe.scheme

    def test_unknown(self, tmp_path):
        with pytest.raises(ConfigError, match=r"recipe: expected one of \['ibug68'.*\] or a TOML file, got 'nothing'"):
            load_recipe("nothing")
        (tmp_path / "broken.toml").write_text("name = ")
        with pytest.raises(ConfigError, match=r"broken.toml: not valid TOML"):
            load_recipe(tmp_path / "broken.toml")

    def test_a_training_for_a_region_that_has_none_of_its_own(self, path):
        path.write_text(TEXT + "[regions.left_eye]\nsteps = 3\n")
        with pytest.raises(
            ConfigError, match=r"regions: expected trainings for \['mouth', 'right_eye'\], got .*left_eye"
        ):
            load_recipe(path)

    def test_a_model_without_regions(self, path):
        path.write_text('name = "one"\n[data]\ntrain = ["a"]\n[model]\ncoarse = { input_px = 64 }\n')
        assert load_recipe(path).regions == {}

    @pytest.mark.parametrize("text", ["model = 3", "name = 'x'", "regions = 1\nmodel = {}"])
    def test_what_is_no_recipe(self, path, text):
        path.write_text(text)
        with pytest.raises(ConfigError):
            load_recipe(path)


class TestFirst:
    """A network of its own for the first pass."""

    FIRST = TEXT.replace("[model]\n", "[model]\npasses = 2\nfirst = { input_px = 32 }\n")

    def test_gets_what_stands_at_the_top(self, path):
        path.write_text(self.FIRST + "[first]\nbatch = 8\n")
        recipe = load_recipe(path)
        assert (recipe.first.steps, recipe.first.batch, recipe.first.optim.lr) == (70, 8, 0.5)
        assert (recipe.coarse.steps, recipe.coarse.batch) == (90, 32)

    @pytest.mark.parametrize(("text", "judge"), [(TEXT, "coarse"), (FIRST, "first")])
    def test_non_faces_are_for_the_network_that_judges_boxes(self, path, text, judge):
        path.write_text(f"non_faces = 0.25\n{text}")
        for recipe in (load_recipe(path), load_recipe(path, [("non_faces", "0.25")])):
            parts = {"first": recipe.first, "coarse": recipe.coarse, "boxes": recipe.boxes, **recipe.regions}
            assert {name for name, part in parts.items() if part.non_faces} == {judge}
        path.write_text(f"{text}\n[{judge}.photometric]\nnoise = 0.5\n".replace("name", "non_faces = 0.25\nname", 1))
        assert getattr(load_recipe(path), judge).non_faces == 0.25  # beside settings of its own

    def test_overrides(self, path):
        path.write_text(self.FIRST)
        recipe = load_recipe(path, [("first.steps", "5"), ("optim.lr", "0.125"), ("first.epochs", "2")])
        assert (recipe.first.steps, recipe.first.epochs, recipe.first.optim.lr) == (5, 2, 0.125)
        assert (recipe.coarse.steps, recipe.coarse.epochs, recipe.coarse.optim.lr) == (90, 0, 0.125)
        assert load_recipe(path, [("first.epochs", "2"), ("steps", "7")]).first.steps == 7

    @pytest.mark.parametrize("added", [("model.first.input_px", "32"), ("model.first", "{ input_px = 32 }")])
    @pytest.mark.parametrize("swapped", [False, True])
    def test_added_by_an_override_it_is_as_if_the_file_had_it(self, path, added, swapped):
        path.write_text(f"non_faces = 0.125\n{TEXT}")
        overrides = [added, ("non_faces", "0.25"), ("model.passes", "2")]
        added = load_recipe(path, overrides[::-1] if swapped else overrides)
        path.write_text(f"non_faces = 0.125\n{self.FIRST}")
        assert added == load_recipe(path, [("non_faces", "0.25")])
        assert (added.first.non_faces, added.coarse.non_faces, added.first.optim.lr) == (0.25, 0.0, 0.5)

    def test_is_what_boxes_are_given_to(self, path):
        path.write_text(self.FIRST + "[first]\njitter = [{ shift = 0.4 }]\n")
        assert load_recipe(path).box_jitter == (JitterConfig(shift=0.4),)
        path.write_text(TEXT)
        assert load_recipe(path).box_jitter == (JitterConfig(shift=0.2),)

    def test_has_no_fitted_placement(self, path):
        path.write_text(self.FIRST + "[first]\nplacement = 'fitted'\n")
        with pytest.raises(
            ConfigError, match=r"first.placement: expected 'given', which stage one needs, got 'fitted'"
        ):
            load_recipe(path)
        path.write_text(self.FIRST)
        for name in ("first.placement", "coarse.placement"):
            with pytest.raises(ConfigError, match=f"{name}: expected 'given'"):
                load_recipe(path, [(name, "fitted")])
        fitted = load_recipe(path, [("placement", "fitted")])  # said for all, it is for those that can
        assert (fitted.first.placement, fitted.regions["mouth"].placement) == ("given", "fitted")


class TestOverrides:
    def test_of_every_network_and_of_one(self, path):
        recipe = load_recipe(path, [("optim.lr", "3e-4"), ("regions.mouth.batch", "8"), ("seed", "5")])
        assert {recipe.coarse.optim.lr, *(part.optim.lr for part in recipe.regions.values())} == {3e-4}
        assert (recipe.regions["mouth"].batch, recipe.coarse.batch, recipe.seed) == (8, 32, 5)
        assert recipe.coarse.optim.weight_decay == 0.1  # what is not named stays

    @pytest.mark.parametrize(
        ("name", "text", "got"),
        [
            ("model.coarse.trunk.width", "16", 16),
            ("coarse.loss.name", "soft_wing", "soft_wing"),
            ("coarse.loss.name", '"rle"', "rle"),
            ("data.train", '["x", "y"]', ("x", "y")),
            ("run.precision", "bf16-mixed", "bf16-mixed"),
            ("model.boxes.head", "direct", "direct"),
            ("coarse.optim.lr", ".001", 0.001),
        ],
    )
    def test_values_of_every_kind(self, path, name, text, got):
        value = load_recipe(path, [(name, text)])
        for word in name.split("."):
            value = getattr(value, word)
        assert value == got

    def test_lists_of_tables(self, path):
        recipe = load_recipe(path, [("jitter", "[{ shift = 0.5, upright = true }, { share = 2 }]")])
        expected = (JitterConfig(shift=0.5, upright=True), JitterConfig(share=2.0))
        assert recipe.coarse.jitter == recipe.regions["mouth"].jitter == expected

    def test_what_is_said_outright_makes_what_would_win_give_way(self, path):
        assert load_recipe(path, [("epochs", "3"), ("coarse.steps", "7")]).coarse.epochs == 0
        assert load_recipe(path, [("steps", "7"), ("epochs", "3")]).coarse.epochs == 3
        fitted = [("placement", "fitted")]
        assert load_recipe(path, fitted).regions["mouth"].placement == "fitted"
        assert load_recipe(path, fitted).coarse.placement == "given"  # which has no other
        moved = load_recipe(path, [*fitted, ("regions.mouth.jitter", "[{ shift = 0.5 }]")])
        assert [part.placement for part in moved.regions.values()] == ["fitted", "given"]
        assert load_recipe(path, [("non_faces", "0.25")]).regions["mouth"].non_faces == 0.0

    @pytest.mark.parametrize(
        ("name", "near"),
        [
            ("optim.lrr", "optim.lr"),
            ("coarse.optm.lr", "coarse.optim.lr"),
            ("regions.mout.steps", "regions.mouth.steps"),
            ("data.missng", "data.missing"),
            ("photometric.jpg", "photometric.jpeg"),
        ],
    )
    def test_unknown_names_are_refused_with_the_nearest(self, path, name, near):
        with pytest.raises(ConfigError, match=f"--{name}: unknown setting; did you mean --{near}?"):
            load_recipe(path, [(name, "1")])

    @pytest.mark.parametrize(
        ("name", "text", "message"),
        [
            ("optim.lr", "fast", r"coarse.optim.lr: expected float, got 'fast'"),
            ("coarse.steps", "2.5", r"coarse.steps: expected int, got 2.5"),
            ("coarse.steps", "true", r"coarse.steps: expected int, got True"),
            ("regions.mouth.loss.name", "wings", r"regions.mouth.loss.name: expected one of \['wing'"),
            ("optim", "3", r"optim: expected a table, got int"),
            ("optim.lr.x", "3", r"unknown setting"),
            ("coarse.optim.lr", "0", r"coarse.optim.lr: expected above 0 and finite, got 0"),
        ],
    )
    def test_types_are_checked(self, path, name, text, message):
        with pytest.raises(ConfigError, match=message):
            load_recipe(path, [(name, text)])

    def test_the_training_of_another_configuration(self):
        @dataclasses.dataclass(frozen=True)
        class One:
            training: PartConfig

        one = override(One, {"training": {}}, [("optim.lr", "0.5"), ("training.steps", "4")])
        assert (one.training.optim.lr, one.training.steps) == (0.5, 4)

    def test_every_name_is_known(self):
        names = setting_names(Recipe, {"regions": {"mouth": {}}})
        assert {"optim.lr", "regions.mouth.photometric.jpeg", "model.boxes.trunk.depth", "run.devices"} <= set(names)


@pytest.mark.parametrize(
    ("kind", "values", "message"),
    [
        (DataConfig, {"train": []}, "train: expected at least one folder"),
        (DataConfig, {"train": ["a"], "extra_share": 1.5}, "extra_share: expected 0 to 1, got 1.5"),
        (DataConfig, {"train": ["a"], "validation_share": 1.0}, "validation_share: expected between 0 and 1, got 1.0"),
        (OptimConfig, {"betas": [0.9]}, "betas: expected two numbers"),
        (OptimConfig, {"momentum": 1.0}, "momentum: expected at least 0 and below 1"),
        (ScheduleConfig, {"rise": 0.0}, "rise: expected between 0 and 1"),
        (ScheduleConfig, {"warmup": -1}, "warmup: expected at least 0, got -1"),
        (PartConfig, {"steps": 0}, "steps: expected at least 1, got 0"),
        (PartConfig, {"batch": 1}, "batch: expected at least 2, got 1"),
        (PartConfig, {"ema": 1.0}, "ema: expected at least 0 and below 1"),
        (PartConfig, {"jitter": []}, "jitter: expected at least one component"),
        (PartConfig, {"jitter": [{"share": 0.0}]}, "jitter: expected at least one component with a share above 0"),
        (PartConfig, {"validate_every": 0}, "validate_every: expected at least 1, got 0"),
        (RunConfig, {"devices": -1}, "devices: expected at least 0, got -1"),
        (RunConfig, {"precision": "8"}, "precision: expected one of"),
    ],
)
def test_values_out_of_range(kind, values, message):
    with pytest.raises(ConfigError, match=message):
        from_dict(kind, values)


def test_stage_one_has_no_fitted_placement():
    values = {"name": "x", "data": {"train": ["a"]}, "model": {"coarse": {}}, "coarse": {"placement": "fitted"}}
    with pytest.raises(ConfigError, match=r"coarse.placement: expected 'given'"):
        from_dict(Recipe, values)


def test_a_design_judges_no_box():
    values = {"name": "x", "data": {"train": ["a"]}, "coarse": {"non_faces": 0.25}}
    values["model"] = {"coarse": {"design": {"name": "mlp"}}}
    with pytest.raises(ConfigError, match=r"coarse.non_faces: expected 0, as the design 'mlp' judges no box, got 0.25"):
        from_dict(Recipe, values)


def test_turned_boxes_have_other_corners(path):
    assert load_recipe(path, [("ninefold", "true")]).regions["mouth"].ninefold
    boxes = [("model.boxes.head", "direct")]
    with pytest.raises(ConfigError, match=r"boxes.ninefold: expected false"):
        load_recipe(path, [*boxes, ("ninefold", "true")])
    assert load_recipe(path, [*boxes, ("coarse.ninefold", "true")]).coarse.ninefold


REFERENCE = Path(__file__).parents[2] / "docs" / "reference" / "recipes.md"
SECTIONS = {
    "Its parts": Recipe,
    "`[data]`": DataConfig,
    "`[first]`, `[coarse]`, `[boxes]`, `[regions.<region>]`": PartConfig,
    "`optim`": OptimConfig,
    "`schedule`": ScheduleConfig,
    "`loss`": LossConfig,
    "`jitter`": JitterConfig,
    "`photometric`": PhotometricConfig,
    "`[model]`": CascadeConfig,
    "`[model.regions.<region>]`": RegionConfig,
    "A network": NetConfig,
    "`trunk`": TrunkConfig,
    "`design`": DesignConfig,
    "`[run]`": RunConfig,
}


@pytest.mark.skipif(not REFERENCE.is_file(), reason="no documentation here: not a checkout")
@pytest.mark.parametrize("section", SECTIONS)
def test_the_reference_has_every_setting_with_its_default(section):
    text = REFERENCE.read_text("utf-8")
    (body,) = re.findall(rf"^###? {re.escape(section)}\n(.*?)(?=^##|\Z)", text, re.MULTILINE | re.DOTALL)
    rows = dict(re.findall(r"^\| `(\w+)` \|[^|]*\| ([^|]*) \|", body, re.MULTILINE))
    fields = {field.name: field for field in dataclasses.fields(SECTIONS[section])}
    assert set(rows) == set(fields)
    for name, field in fields.items():
        if isinstance(field.default, (bool, int, float, str)):
            assert rows[name] == f"`{json.dumps(field.default)}`", name
        else:
            required = field.default is field.default_factory is dataclasses.MISSING
            assert (rows[name] == "required") == required, name
