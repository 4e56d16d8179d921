"""The Dockerfile does what the README says, and its how-to says what is in the Dockerfile."""

from __future__ import annotations

import itertools
import json
import re
import shlex
import subprocess
from fnmatch import fnmatch
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.skipif(not (ROOT / "Dockerfile").is_file(), reason="needs a checkout, with its Dockerfile")


def stages():
    """Of each stage, by name and number, its base and its instructions; and what comes before the first."""
    text = re.sub(r"(?m)^#.*\n", "", (ROOT / "Dockerfile").read_text("utf-8")).replace("\\\n", " ")
    found = {"": ("", [])}
    for line in filter(None, map(str.strip, text.splitlines())):
        word, rest = line.split(None, 1)
        if word == "FROM":
            base, _, name = rest.partition(" AS ")
            found[name or "final"] = (base, [])
        else:
            found[list(found)[-1]][1].append((word, " ".join(rest.split())))
    return found


def section(title):
    """A section of the README."""
    return re.search(rf"^## {title}\n(.*?)^## ", (ROOT / "README.md").read_text("utf-8"), re.MULTILINE | re.DOTALL)[1]


def test_try_it_is_the_target_check():
    base, instructions = stages()["check"]
    assert base == "source"
    steps = [rest if word == "RUN" else shlex.join(json.loads(rest)) for word, rest in instructions]
    fenced = re.search(r"```\n(.*?)```", section("Try it"), re.DOTALL)[1]
    assert steps == [re.sub(r"\s+#.*", "", line) for line in fenced.strip().splitlines()]


def test_the_image_is_installed_as_the_readme_installs():
    base, instructions = stages()["final"]
    assert base == "source"
    runs = [rest for word, rest in instructions if word == "RUN"]
    [install] = re.findall(r"To use it in a project of yours: `(.*?)`", section("Try it"))
    assert runs == ["python3 -m venv /opt/venv", install]
    commands = re.search(r"```\n(.*?)```", section("On the command line"), re.DOTALL)[1].splitlines()
    assert {line.split()[0] for line in commands} == {*json.loads(dict(instructions)["ENTRYPOINT"])}


def test_the_bases_are_an_argument_and_nobody_is_root():
    found = stages()
    assert found[""][1] == [("ARG", "BASE=python:3.11-slim")]
    assert found["source"][0] == "${BASE}"
    order = [word for word, _ in found["source"][1]]
    assert order.index("USER") < order.index("COPY")
    users = [rest for _, instructions in found.values() for word, rest in instructions if word == "USER"]
    assert users == ["cascade"]


def test_the_how_to_names_what_there_is():
    known = {"BASE"} | {rest.split("=")[0] for word, rest in stages()["source"][1] if word == "ARG"}
    text = (ROOT / "docs/how-to/docker.md").read_text("utf-8")
    built = set()
    for line in re.findall(r"^docker .*$", text, re.MULTILINE):
        words = shlex.split(line.split(" > ")[0])
        if words[:2] == ["docker", "build"]:
            built.add(words[words.index("-t") + 1])
            assert words[-1] == "."
            for name, value in itertools.pairwise(words):
                assert name != "--build-arg" or value.split("=")[0] in known
                assert name != "--target" or value in stages()
        else:
            assert words[:3] == ["docker", "run", "--rm"]
            assert built & set(words)
    assert known == set(re.findall(r"^\| `([A-Z_]+)` \|", text, re.MULTILINE))


def test_the_image_holds_all_that_git_holds():
    done = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip("not a git checkout")
    lines = (ROOT / ".dockerignore").read_text("utf-8").splitlines()
    patterns = [line.strip() for line in lines if line.strip() and not line.startswith("#")]
    for path in filter(None, done.stdout.split("\0")):
        for pattern in patterns:
            anywhere = pattern.removeprefix("**/")
            parts = path.split("/") if anywhere != pattern else path.split("/")[:1]
            assert not any(fnmatch(part, anywhere) for part in parts), f"{path} is left out by {pattern}"
