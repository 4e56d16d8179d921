"""The command line as a whole: help, version, wrong usage, and what goes to which stream."""

from __future__ import annotations

import io
import os
import subprocess
import sys

import pytest

import cascade_kp
from cascade_kp import cli
from cascade_kp.cli import main


def run(arguments, capsys):
    """Exit code, stdout and stderr of one command, in this process."""
    try:
        code = main(arguments)
    except SystemExit as stop:  # how the parser of options ends
        code = stop.code if isinstance(stop.code, int) else int(bool(stop.code))
    said = capsys.readouterr()
    return code, said.out, said.err


@pytest.mark.parametrize(
    "arguments", [["--help"], ["-h"], ["predict", "--help"], ["predict", "-h"], ["info", "--help"]]
)
def test_help_goes_to_stdout_and_is_no_failure(capsys, arguments):
    code, out, err = run(arguments, capsys)
    assert code == 0
    assert err == ""
    assert "usage: cascade-kp" in out


def test_the_help_names_every_command(capsys):
    _, out, _ = run(["--help"], capsys)
    for name in cli._COMMANDS:
        assert f"  {name} " in out


@pytest.mark.parametrize("command", list(cli._COMMANDS))
def test_every_command_has_a_help_that_names_itself(capsys, command):
    code, out, _ = run([command, "--help"], capsys)
    assert code == 0
    assert f"usage: cascade-kp {command} " in out
    assert cli._COMMANDS[command]


def test_the_help_of_predict_names_every_option(capsys):
    _, out, _ = run(["predict", "--help"], capsys)
    for option in ["--model", "--stage", "--format", "--out", "--draw", "--min-score", "--threads", "--device"]:
        assert option in out
    assert "IMAGES..." in out


def test_the_version_is_printed(capsys):
    assert run(["--version"], capsys) == (0, f"cascade-kp {cascade_kp.__version__}\n", "")


def test_nothing_at_all_is_wrong_usage(capsys):
    code, out, err = run([], capsys)
    assert code == 2
    assert out == ""
    assert "usage: cascade-kp" in err


@pytest.mark.parametrize("command", ["fly", "", "--fly", "Predict", "__init__", "cli.info"])
def test_an_unknown_command_is_wrong_usage_and_lists_the_known(capsys, command):
    code, out, err = run([command], capsys)
    assert code == 2
    assert out == ""
    assert repr(command) in err
    for name in cli._COMMANDS:
        assert name in err


@pytest.mark.parametrize(
    "arguments",
    [
        ["predict", "a.jpg", "--modle", "x"],
        ["predict", "a.jpg", "--format", "xml"],
        ["predict", "a.jpg", "--stage", "fine"],
        ["predict", "a.jpg", "--threads", "many"],
        ["predict", "a.jpg", "--min-score", "high"],
        ["predict", "a.jpg", "--out"],
        ["info", "ibug68", "more"],
        ["info", "--xml"],
    ],
)
def test_an_unknown_option_or_value_is_wrong_usage(capsys, arguments):
    code, out, err = run(arguments, capsys)
    assert code == 2
    assert out == ""
    assert err


def test_a_reader_that_leaves_is_no_traceback():
    # As `cascade-kp info --json | true`: the reader is gone before the first line.
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, "wb") as pipe:
        done = subprocess.run(
            [sys.executable, "-m", "cascade_kp", "info", "--json"], stdout=pipe, stderr=subprocess.PIPE, check=False
        )
    assert done.stderr == b""
    assert done.returncode == 1


def test_an_interrupt_is_no_traceback(capsys, monkeypatch):
    def interrupted(_arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr("cascade_kp.cli.info.main", interrupted)
    assert run(["info"], capsys) == (130, "", "")


def test_a_stdout_that_is_no_file_will_do(monkeypatch):
    monkeypatch.setattr(sys, "stdout", io.StringIO())
    assert main(["info"]) == 0
    assert sys.stdout.getvalue().startswith("ibug68")
