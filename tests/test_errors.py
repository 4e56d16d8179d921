from __future__ import annotations

import pickle

import pytest

from cascade_kp import errors


@pytest.mark.parametrize("name", errors.__all__)
def test_what_a_file_puts_into_a_message_is_cut_short(name):
    kind = getattr(errors, name)
    assert str(kind("a.csv:3: expected a number, got 'x'")) == "a.csv:3: expected a number, got 'x'"
    long = kind("a.csv:3: expected a number, got " + "9" * 1_000_000 + " of all")
    assert len(str(long)) < 8000
    assert str(long).startswith("a.csv:3: expected a number, got 999")
    assert str(long).endswith("999 of all")
    assert str(pickle.loads(pickle.dumps(long))) == str(long)  # noqa: S301 (made here)
