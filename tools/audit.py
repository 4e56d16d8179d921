"""``python -m tools.audit``: what is known against the packages in this environment, and their licences.

Exit codes: 0 where nothing was found, 1 for a finding, 2 where advisories could not be asked for. The last is no clean
bill: pip-audit itself ends with 0 where an index knows no package at all.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import subprocess
import sys
from typing import TYPE_CHECKING, Any

from license_expression import ExpressionError, get_spdx_licensing
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

OURS = "cascade-kp"
EXTRAS = ("hub", "interchange", "parquet", "ray", "tensorboard")
"""What users install; the tools of ``dev`` are looked up as well, but nothing of them reaches a user."""

SHOWN = 10
"""So many of the packages that could not be looked up are named: mostly it is one reason for all."""

ACCEPTED: dict[str, str] = {}
"""Advisories that are known and do not concern us: their number, and why."""

ALLOWED = frozenset(
    {
        "0BSD",
        "Apache-2.0",
        "Apache-2.0 WITH LLVM-exception",
        "BSD-2-Clause",
        "BSD-3-Clause",
        "BSL-1.0",
        "CC0-1.0",
        "ISC",
        "MIT",
        "MIT-CMU",
        "MPL-2.0",  # of files: who changes one of theirs publishes that one
        "PSF-2.0",
        "Zlib",
    }
)
"""Licences under which a package may be needed, by their SPDX names."""

SAID = {
    "3-Clause BSD License": "BSD-3-Clause",
    "Apache 2.0": "Apache-2.0",
    "Apache Software License": "Apache-2.0",
    "BSD": "BSD-3-Clause",
    "BSD License": "BSD-3-Clause",  # of two or three clauses, which are the same to us
    "MIT License": "MIT",
    "Mozilla Public License 2.0 (MPL 2.0)": "MPL-2.0",
    "PSFL": "PSF-2.0",
    "Python Software Foundation License": "PSF-2.0",
}
"""What packages say in place of an SPDX name."""

READ = {
    "menpo": "BSD-3-Clause",  # its LICENSE.txt; the metadata say nothing
}
"""Packages whose licence we read ourselves."""

PROPRIETARY = {
    "cuda-toolkit": "names NVIDIA's packages, and holds nothing itself",
    "nvidia-": "CUDA, which PyTorch for Linux needs; not ours to pass on, and a CPU build of PyTorch is without",
}
"""Packages, or what their names begin with, that are no free software, and why they may be there all the same."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run both checks; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tools.audit", description=__doc__.splitlines()[0])
    parser.add_argument("--licences", action="store_true", help="these only: needs no network")
    parser.add_argument("--service", default="pypi", choices=["pypi", "osv"], help="whom to ask for advisories")
    args = parser.parse_args(arguments)
    try:
        packages = needed(OURS, EXTRAS)
    except importlib.metadata.PackageNotFoundError as error:
        print(f"licences: expected {OURS} here with all its extras, got none of {error.name}", file=sys.stderr)
        return 2
    wrong = [line for name in packages if (line := objection(name, importlib.metadata.metadata(name)))]
    print(f"licences: {len(packages)} packages, {len(wrong)} objections", *wrong, sep="\n  ")
    if args.licences:
        return int(bool(wrong))
    found, unasked = advisories("--vulnerability-service", args.service)
    print(f"advisories: {len(found)} known", *found, sep="\n  ")
    if unasked:
        print(f"advisories: {len(unasked)} packages could not be looked up, so this is no clean bill", file=sys.stderr)
        more = [f"and {len(unasked) - SHOWN} more"] if len(unasked) > SHOWN else []
        print(*[f"  {line}" for line in unasked[:SHOWN] + more], sep="\n", file=sys.stderr)
    return 1 if found or wrong else 2 if unasked else 0


# ---------------------------------------------------------------------------------------------- advisories


def advisories(*options: str) -> tuple[list[str], list[str]]:
    """Ask for advisories about the packages that are installed.

    Args:
        options: of pip-audit.

    Returns:
        Lines about what is known, and lines about what could not be asked.
    """
    command = [sys.executable, "-m", "pip_audit", "--format", "json", "--progress-spinner", "off", *options]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    try:
        return sorted_out(json.loads(done.stdout)["dependencies"])
    except (ValueError, KeyError, TypeError):  # without an answer it writes no JSON
        said = [line for line in done.stderr.splitlines() if line.strip()]
        return [], [f"all: pip-audit ended with {done.returncode}: {said[-1] if said else 'it said nothing'}"]


def sorted_out(dependencies: Iterable[Mapping[str, Any]]) -> tuple[list[str], list[str]]:
    """What pip-audit's answer says is known, and what it skipped."""
    found, unasked = [], []
    for package in dependencies:
        if canonicalize_name(package["name"]) == OURS:
            continue  # ours is on no index in this version
        if "skip_reason" in package:
            unasked.append(f"{package['name']}: {package['skip_reason']}")
            continue
        for known in package["vulns"]:
            if not {known["id"], *known.get("aliases", ())} & ACCEPTED.keys():
                mended = ", ".join(known["fix_versions"]) or "no version"
                found.append(f"{package['name']} {package['version']}: {known['id']}, mended in {mended}")
    return found, unasked


# ---------------------------------------------------------------------------------------------- licences


def needed(name: str, extras: Iterable[str]) -> list[str]:
    """Names of the packages that are installed for the sake of one and its extras, that one among them."""
    seen: dict[str, set[str]] = {}
    todo = [(name, set(extras))]
    while todo:
        one, wanted = todo.pop()
        key = canonicalize_name(one)
        if key in seen and wanted <= seen[key]:
            continue
        seen.setdefault(key, set()).update(wanted)
        for text in importlib.metadata.requires(key) or ():
            requirement = Requirement(text)
            marker = requirement.marker
            if marker is None or any(marker.evaluate({"extra": extra}) for extra in ("", *wanted)):
                todo.append((requirement.name, requirement.extras))
    return sorted(seen)


def objection(name: str, metadata: Any) -> str:  # noqa: ANN401 (an e-mail's header, or a test's)
    """What is wrong with the licence that a package declares; nothing where it is allowed."""
    if any(name == known or (known.endswith("-") and name.startswith(known)) for known in PROPRIETARY):
        return ""
    declared = READ.get(name) or said_by(metadata)
    if not declared:
        return f"{name}: expected a licence in its metadata, got none; read it, and put it into READ"
    try:
        return "" if allowed(declared) else f"{name}: expected a licence of ALLOWED, got {declared!r}"
    except ExpressionError as error:
        return f"{name}: expected a licence that SPDX knows, got {declared[:60]!r}: {str(error).splitlines()[0]}"


def said_by(metadata: Any) -> str:  # noqa: ANN401 (as above)
    """The licence by its SPDX expression, by its classifiers, or by a field of one line; empty where there is none."""
    if expression := metadata.get("License-Expression"):
        return str(expression)
    rows = [row.split(" :: ") for row in metadata.get_all("Classifier") or ()]
    classified = [row[-1] for row in rows if row[0] == "License" and row[-1] != "OSI Approved"]
    field = (metadata.get("License") or "").strip()
    told = classified or ([field] if field and "\n" not in field else [])
    return " AND ".join(f"({SAID.get(one, one)})" for one in told)


def allowed(expression: str) -> bool:
    """Whether an SPDX expression can be met with licences of ALLOWED alone.

    Raises:
        ExpressionError: it is none, or names what SPDX does not know.
    """
    licensing = get_spdx_licensing()
    parsed = licensing.parse(expression, validate=True, strict=True)

    def met(part: Any) -> bool:  # noqa: ANN401 (of a library without types)
        if isinstance(part, licensing.AND):
            return all(map(met, part.args))
        if isinstance(part, licensing.OR):
            return any(map(met, part.args))
        return str(part) in ALLOWED

    return met(parsed)


if __name__ == "__main__":
    sys.exit(main())
