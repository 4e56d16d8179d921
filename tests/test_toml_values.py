from __future__ import annotations

import pytest

from cascade_kp.errors import CascadeError, ConfigError, SchemeError
from cascade_kp.schemes import load_scheme
from cascade_kp.toml_values import MAX_BYTES, MAX_DEPTH, parse_toml
from cascade_kp.training.recipe import load_recipe

ATTACKS = {
    "lists": (b"name = " + b"[" * 100_000, "levels"),
    "a few too many lists": (b"name = " + b"[" * 40 + b"]" * 40, "levels"),
    "tables": (b"name = " + b"{a=" * 100_000, "levels"),
    "a long name": (b"a" + b".a" * 100_000 + b" = 1", "at most 32 parts"),
    "a long table": (b"[" + b'"a". ' * 100_000 + b"a]", "at most 32 parts"),
    "many digits": (b"name = " + b"9" * 5000, "digits"),
    "many hexadecimal digits": (b"name = 0x" + b"f" * 5000, "64 bits, got one of 20,000"),
    "not UTF-8": (b"name = '\xff'", "utf-8"),
    "too large": (b"# " + b"x" * MAX_BYTES, "at most 1,048,576 bytes"),
}


@pytest.mark.timeout(20)
@pytest.mark.parametrize("read", [load_scheme, load_recipe])
@pytest.mark.parametrize("what", ATTACKS)
def test_attacks_are_refused_with_the_file_and_the_reason(tmp_path, read, what):
    content, reason = ATTACKS[what]
    path = tmp_path / "attack.toml"
    path.write_bytes(content)
    with pytest.raises(CascadeError, match=rf"attack\.toml.*{reason}") as error:
        read(path)
    assert error.type in (SchemeError, ConfigError)


def test_what_people_write_is_read():
    text = 'a.b.c = 9223372036854775807\nd = "1.2.3.4"\n[[e]]\nf = { g = [[1.5]] }\n'
    text += 'h = "' + "two words. " * 90 + '"'
    values = parse_toml(text)
    assert values["a"] == {"b": {"c": 2**63 - 1}}
    assert values["e"][0]["f"] == {"g": [[1.5]]}
    deepest = parse_toml("a = " + "[" * (MAX_DEPTH - 2) + "]" * (MAX_DEPTH - 2))
    assert str(deepest["a"]).count("[") == MAX_DEPTH - 2


@pytest.mark.timeout(20)
def test_long_names_that_are_alike_are_not_compared(tmp_path):
    names = ", ".join(f'"left_{"ab" * 20_000}{i}"' for i in range(3))
    path = tmp_path / "alike.toml"
    path.write_text(f'name = "x"\nkeypoints = [{names}]')
    with pytest.raises(SchemeError, match=r"alike\.toml: scheme .x.: keypoint .left_"):
        load_scheme(path)


def test_a_recipe_says_which_file_is_wrong(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_bytes(b'\xef\xbb\xbfname = "mine"\n[model]\nregions = 1\n')
    with pytest.raises(ConfigError, match=r"mine\.toml: "):
        load_recipe(path)
    with pytest.raises(ConfigError, match="expected one of"):
        load_recipe("x" * 5000)
