"""What is made of mutmut's words, and that the explained survivors are of the code as it is."""

from __future__ import annotations

import importlib
import inspect
import tomllib
from pathlib import Path

import pytest

pytest.importorskip("benchmarks.mutants", reason="needs the checkout's benchmarks: python -m pytest in its root")

from benchmarks import mutants

LISTING = """
    cascade_kp.geometry.x_apply__mutmut_1: killed
    cascade_kp.geometry.x_apply__mutmut_2: survived
    cascade_kp.geometry.x__shrink__mutmut_12: timeout
    cascade_kp.schemes.xǁSchemeǁ_check_rest__mutmut_3: survived
"""
DIFF = """# cascade_kp.geometry.x_apply__mutmut_2: survived
--- cascade_kp/geometry.py
+++ cascade_kp/geometry.py
@@ -11,4 +11,4 @@
     Returns:
         (N, K, 2) px in frame B; NaN stays NaN.
     \"\"\"
-    return points @ matrix + shift
+    return points - matrix + shift
"""
CHANGE = mutants.Change("geometry.apply", "return points @ matrix + shift", "return points - matrix + shift")


def test_names():
    names = ["geometry.apply", "geometry.apply", "geometry._shrink", "schemes.Scheme._check_rest"]
    assert list(map(mutants.function, mutants.states(LISTING))) == names


def test_a_change_is_what_goes_and_what_comes():
    assert mutants.change("cascade_kp.geometry.x_apply__mutmut_2", DIFF) == CHANGE


@pytest.mark.parametrize(
    "state", ["not checked", "no tests", "suspicious", "segfault", "check was interrupted by user"]
)
def test_refuses_a_run_that_was_not_whole(state):
    with pytest.raises(SystemExit, match=rf"got 4 and \['cascade_kp.geometry.x_apply__mutmut_1: {state}'\]"):
        mutants.states(LISTING.replace("killed", state))
    with pytest.raises(SystemExit, match="got 0 and no others"):
        mutants.states("")


def test_rows_by_hand():
    survivors = [CHANGE, mutants.Change("schemes.Scheme._check_rest", "a", "b")]
    rows = mutants.rows(mutants.states(LISTING), survivors, {CHANGE: "because"})
    geometry = {"killed": 1, "timeout": 1, "survived": 1, "explained": 1, "noticed": 2 / 3}
    schemes = {"killed": 0, "timeout": 0, "survived": 1, "explained": 0, "noticed": 0.0}
    assert rows == [{"module": "geometry", "mutants": 3, **geometry}, {"module": "schemes", "mutants": 1, **schemes}]


def test_every_explained_survivor_is_of_the_code_as_it_is():
    for group in tomllib.loads((Path(mutants.HOME) / "mutants.toml").read_text(encoding="utf-8"))["survivor"]:
        module, *names = group["where"].split(".")
        owner = importlib.import_module(f"cascade_kp.{module}")
        for name in names:
            owner = getattr(owner, name)
        source = "\n".join(line.strip() for line in inspect.getsource(owner).splitlines())
        assert group["old"] in source, f"{group['where']} has changed"
        assert len(group["why"].split()) >= 4
        for new in group["new"]:
            assert new != group["old"]


def test_no_survivor_is_explained_twice():
    groups = tomllib.loads((Path(mutants.HOME) / "mutants.toml").read_text(encoding="utf-8"))["survivor"]
    assert len(mutants.explanations()) == sum(len(group["new"]) for group in groups)
