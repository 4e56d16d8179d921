"""Which small faults in three modules their tests notice: ``python -m benchmarks.mutants [--report] [--json PATH]``.

mutmut changes ``geometry``, ``metrics`` and ``schemes`` in one place at a time (an operator, a number, a text, an
argument; 1,900 places) and lets the tests of these modules that reach the changed function run. A mutant is ``killed``
if one of them fails, a ``timeout`` if they hang, and has ``survived`` if all pass. What survives and cannot be told
from the code by its results, or is of no consequence, stands in ``mutants.toml`` with the reason; anything else that
survives is printed, and the exit code is 1: a test is missing.

From the top of a checkout; takes the better part of an hour on one core. ``--report`` runs nothing and sums up what the
last run left in ``mutants/``. In between, ``mutmut run NAME`` tests one mutant again and ``mutmut show NAME`` prints
it. Which tests, and how: ``[tool.mutmut]`` in ``pyproject.toml``.

mutmut leaves alone what stands outside functions, the fixed text of f-strings, and functions under decorators.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import re
import shutil
import subprocess
import sys
import tomllib
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from benchmarks import record

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

_PROTOCOL = """
Every mutant that mutmut makes of the three modules, each in a fork of a process that has imported the tests and run
none, on one core; those tests of the three modules run that reach the changed function, until one fails, hypothesis
with the same examples every time. noticed: killed or hung, of all mutants. explained: survived, with the reason in
benchmarks/mutants.toml.
"""
HOME = Path(__file__).resolve().parent
_NOTICED = ("killed", "timeout")
_STATES = (*_NOTICED, "survived")


class Change(NamedTuple):
    """What a mutant is: lines of a function, and what they became."""

    where: str
    old: str
    new: str


def explanations(path: Path = HOME / "mutants.toml") -> dict[Change, str]:
    """Why survivors survive, by what they are."""
    groups = tomllib.loads(path.read_text(encoding="utf-8"))["survivor"]
    return {Change(group["where"], group["old"], new): group["why"] for group in groups for new in group["new"]}


def function(mutant: str) -> str:
    """``geometry.apply`` of ``cascade_kp.geometry.x_apply__mutmut_3``; methods are ``schemes.Scheme.index``."""
    _, module, name = mutant.split(".")
    return f"{module}.{name.rsplit('__mutmut_', 1)[0].removeprefix('x').removeprefix('_').strip('ǁ').replace('ǁ', '.')}"


def states(listing: str) -> dict[str, str]:
    """What became of each mutant, from what ``mutmut results`` prints.

    Raises:
        SystemExit: some were not tested, or mutmut could not tell.
    """
    found = dict(re.findall(r"^ +(\S+): (.+)$", listing, re.MULTILINE))
    odd = sorted(f"{name}: {state}" for name, state in found.items() if state not in _STATES)
    if odd or not found:
        raise SystemExit(
            f"expected {', '.join(_STATES)} of every mutant, got {len(found)} and {odd[:3] or 'no others'}"
        )
    return found


def change(mutant: str, diff: str) -> Change:
    """A mutant, from what ``mutmut show`` prints."""
    lines = [line for line in diff.splitlines() if line[:1] in "+-" and line[:3] not in ("+++", "---")]
    old, new = ("\n".join(line[1:].strip() for line in lines if line[0] == sign) for sign in "-+")
    return Change(function(mutant), old, new)


def rows(found: Mapping[str, str], survivors: Iterable[Change], why: Mapping[Change, str]) -> list[dict[str, object]]:
    """The figures, a module a row."""
    by_module: dict[str, Counter[str]] = {}
    for mutant, state in found.items():
        by_module.setdefault(mutant.split(".")[1], Counter())[state] += 1
    explained = Counter(survivor.where.split(".")[0] for survivor in survivors if survivor in why)
    return [
        {
            "module": module,
            "mutants": counts.total(),
            **{state: counts[state] for state in _STATES},
            "explained": explained[module],
            "noticed": sum(counts[state] for state in _NOTICED) / counts.total(),
        }
        for module, counts in sorted(by_module.items())
    ]


def main(arguments: Sequence[str] | None = None) -> None:
    """Run, sum up, and name what no test notices and nobody has explained."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.mutants", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--report", action="store_true", help="sum up the last run")
    record.add_json_option(parser)
    args = parser.parse_args(arguments)
    result: dict[str, Any] = record.envelope("mutants", _PROTOCOL)
    if not args.report:
        shutil.rmtree("mutants", ignore_errors=True)  # or what was found before would stand
        _mutmut("run", "--max-children", "1", capture=False)
    found = states(_mutmut("results", "--all", "true"))
    survivors = {name: change(name, _mutmut("show", name)) for name, state in found.items() if state == "survived"}
    why = explanations()
    result["settings"] = {"tool": f"mutmut {importlib.metadata.version('mutmut')}"}
    result["rows"] = rows(found, survivors.values(), why)
    for row in result["rows"]:
        print(
            "{module}: {mutants} mutants, {killed} killed, {timeout} hung, {survived} survived".format_map(row), end=""
        )
        print(" ({explained} explained): {noticed:.1%} noticed".format_map(row))
    if args.json:
        record.write(args.json, result)
    open_ends = [f"{name}: survived\n- {one.old}\n+ {one.new}" for name, one in survivors.items() if one not in why]
    open_ends += [f"explained, but noticed: {one}" for one in why.keys() - set(survivors.values())]
    if open_ends:
        raise SystemExit("\n".join(open_ends))


def _mutmut(*arguments: str, capture: bool = True) -> str:
    """Run mutmut, which comes with this interpreter, and return what it prints."""
    command = [str(Path(sys.executable).with_name("mutmut")), *arguments]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE if capture else None, text=True).stdout or ""


if __name__ == "__main__":
    main()
