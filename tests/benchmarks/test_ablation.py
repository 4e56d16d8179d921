"""What each ingredient is worth: the rows are one change each, and take as many faces."""

import pytest

pytest.importorskip("benchmarks.ablation", reason="needs the checkout's benchmarks: python -m pytest in its root")

from benchmarks import ablation
from cascade_kp.config import to_dict
from cascade_kp.schemes import load_scheme
from cascade_kp.training.parts import parts_of
from cascade_kp.training.recipe import load_recipe


def flat(values, prefix=""):
    pairs = {}
    for key, value in values.items():
        if isinstance(value, dict):
            pairs |= flat(value, f"{prefix}{key}.")
        else:
            pairs[prefix + key] = value
    return pairs


@pytest.mark.parametrize("row", ablation.ROWS)
def test_a_row_changes_what_it_names_and_nothing_else(row):
    plain = flat(to_dict(ablation.recipe_of("ibug68", "the recipe", 1, 960)))
    other = flat(to_dict(ablation.recipe_of("ibug68", row, 1, 960)))
    different = {key for key in plain.keys() | other.keys() if plain.get(key) != other.get(key)}
    allowed = set(ablation.ROWS[row])
    if "coarse.batch" in allowed:  # as many faces in larger batches are fewer steps
        allowed |= {"coarse.steps", "coarse.validate_every"}
    assert different <= allowed
    assert bool(different) == bool(ablation.ROWS[row])


@pytest.mark.parametrize("row", ablation.ROWS)
def test_every_row_draws_as_many_faces_and_validates_once(row):
    training = ablation.recipe_of("ibug68", row, 0, 960).coarse
    assert training.steps * training.batch == 960
    assert training.validate_every == training.steps


def test_networks_take_turns_and_larger_ones_take_longer():
    recipe = load_recipe("ibug68")
    scheme = load_scheme("ibug68")
    parts = {name: part for name, (part, _) in parts_of(recipe, scheme).items() if name in ("first", "coarse")}
    times = ablation.milliseconds(parts, 5)
    assert set(times) == {"first", "coarse"}
    assert all(value > 0 for value in times.values())
