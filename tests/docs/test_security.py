"""SECURITY.md promises what tests prove, and says the limits that the code has."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from cascade_kp import images, weights
from cascade_kp.apps import demo

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.skipif(not (ROOT / "SECURITY.md").is_file(), reason="needs a checkout, with its SECURITY.md")


def promises():
    """Each promise with the tests that are named for it."""
    text = (ROOT / "SECURITY.md").read_text("utf-8")
    rows = re.findall(r"^\| (.+?) \| (`tests/.+`) \|$", text, re.MULTILINE)
    assert len(rows) == text.count("\n| ") - 1  # all but the table's head
    return [(promise, re.findall(r"`([^`]+)`", tests)) for promise, tests in rows]


@pytest.mark.parametrize("promise", promises() if (ROOT / "SECURITY.md").is_file() else [], ids=lambda row: row[0][:40])
def test_every_promise_has_its_tests(promise):
    for name in promise[1]:
        path, *parts = name.split("::")
        body = ast.parse((ROOT / path).read_text("utf-8")).body
        for part in parts:
            found = {node.name: node for node in body if isinstance(node, ast.FunctionDef | ast.ClassDef)}
            assert part in found, name
            body = found[part].body


def test_the_limits_are_those_of_the_code():
    text = "\n".join(promise for promise, _ in promises())
    assert f"at most {images.MAX_PIXELS // 10**6} million pixels" in text
    assert f"at most {weights._MAX_HEADER_BYTES >> 20} MiB" in text
    assert f"at most {demo.MAX_BYTES // 10**6} MB" in text
    assert (demo._UPLOADS, demo._UPLOAD_S) == (8, 120.0)  # "eight at a time, each for two minutes"
