"""``cascade-kp compare``: exit code 1 for a significant loss and for nothing else."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest
from protocol_case import made_errors, made_result, tiny_model, write_tree

from cascade_kp.cli import main
from cascade_kp.evaluation.record import write_json
from cascade_kp.evaluation.text import result_text
from cascade_kp.schemes import load_scheme

N = 200
FOLDERS = ["helen/testset"] * 120 + ["300w/ibug"] * 80


def models_errors(factor):
    """Errors whose mouth is so many times as large, all by chance a little different."""
    errors = made_errors(N, 1)
    rng = np.random.default_rng(8)
    points = np.empty((N, 68))
    for name, members in load_scheme("ibug68").regions.items():
        chance = rng.normal(1, 0.03 if factor != 1 else 0, N)
        points[:, list(members)] = (errors[name] * chance * (factor if name == "mouth" else 1))[:, None]
    return errors | {"68": points.mean(1), "51": points[:, 17:].mean(1), "mouth": points[:, 48]}


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Results on disk. Never written to."""
    folder = tmp_path_factory.mktemp("results")

    def save(name, **settings):
        factor = settings.pop("factor", 1.0)
        result = made_result(models_errors(factor), folders=FOLDERS, **settings)
        write_json(folder / f"{name}.json", result.to_dict())
        return result

    same = save("same")
    save("worse", factor=1.05)
    save("better", factor=0.95)
    save("pupil", protocol={"norm": "inter_pupil"})
    save("detector", protocol={"boxes": "detector", "found_iou": 0.5})
    write_json(folder / "fewer.json", same.only(np.arange(3, N)).to_dict())
    (folder / "printed.txt").write_text(result_text(same) + "\n" + json.dumps(same.to_dict()) + "\n")
    (folder / "text.json").write_text("no json")
    (folder / "other.json").write_text('{"format": 1, "kind": "latency"}')
    return folder


@pytest.fixture
def run(capsys):
    def command(*arguments):
        words = list(map(str, arguments))
        if words and "--resamples" not in words:
            words += ["--resamples", "3000"]  # quicker than by default
        try:
            code = main(["compare", *words])
        except SystemExit as stop:
            code = stop.code
        said = capsys.readouterr()
        return code, said.out, said.err

    return command


def refused(answer):
    code, out, err = answer
    assert (code, out) == (2, "")
    assert err.startswith("cascade-kp: ")
    assert err.count("\n") == 1
    return err


def test_the_same_is_no_loss(run, files):
    code, out, err = run(files / "same.json", files / "same.json")
    assert (code, err) == (0, "")
    assert "better: nothing\nworse: nothing\n" in out
    assert "200 faces" in out


def test_a_loss_is_named_and_is_exit_code_1(run, files):
    code, out, err = run(files / "same.json", files / "worse.json")
    assert (code, err) == (1, "")
    last = out.splitlines()[-1]
    assert last.startswith("worse: ")
    assert "NME of mouth" in last
    assert "NME of mouth on 300w/ibug" in last
    assert "nose" not in last
    assert out.splitlines()[-2] == "better: nothing"


def test_a_gain_is_no_loss(run, files):
    code, out, _ = run(files / "same.json", files / "better.json")
    assert code == 0
    assert "NME of mouth" in out.splitlines()[-2]
    assert out.splitlines()[-1] == "worse: nothing"


def test_what_was_printed_can_be_compared(run, files):
    assert run(files / "printed.txt", files / "same.json")[0] == 0
    assert run(files / "printed.txt", files / "worse.json")[0] == 1


def test_json_is_the_last_line(run, files):
    code, out, _ = run(files / "same.json", files / "worse.json", "--json")
    content = json.loads(out.splitlines()[-1])
    assert code == 1
    assert content["worse"] > 0
    assert content["n"] == N
    assert "mouth" in {change["points"] for change in content["changes"] if change["verdict"] == "worse"}


def test_settings(run, files):
    assert run(files / "same.json", files / "worse.json", "--tolerance", "0.5")[0] == 0
    assert run(files / "same.json", files / "worse.json", "--stage", "all")[0] == 1
    one, two = (run(files / "same.json", files / "worse.json", "--seed", "5", "--json")[1] for _ in range(2))
    assert one == two
    assert run(files / "same.json", files / "worse.json", "--seed", "6", "--json")[1] != one


@pytest.mark.parametrize(
    ("second", "arguments", "words"),
    [
        ("fewer.json", [], ["same faces", "200 and 197", "3 are only in the first", "helen/testset/0000"]),
        ("pupil.json", [], ["norm", "'inter_ocular'", "'inter_pupil'"]),
        ("detector.json", [], ["boxes", "'truth'", "'detector'"]),
        ("text.json", [], ["text.json", "expected JSON"]),
        ("other.json", [], ["other.json", "'latency'"]),
        ("missing.json", [], ["missing.json"]),
        ("", [], ["expected a result"]),
        ("same.json", ["--stage", "oracle"], ["stage", "regions", "'oracle'"]),
        ("same.json", ["--resamples", "0"], ["resamples", "positive"]),
        ("same.json", ["--tolerance", "-1"], ["tolerance"]),
        ("same.json", ["--seed", "-1"], ["seed"]),
    ],
)
def test_what_cannot_be_compared_is_one_clear_line(run, files, second, arguments, words):
    err = refused(run(files / "same.json", files / second if second else files, *arguments))
    for word in words:
        assert word in err


@pytest.mark.parametrize("arguments", [[], ["a.json"], ["a.json", "b.json", "c.json"], ["a.json", "b.json", "--jsn"]])
def test_wrong_usage(run, arguments):
    code, out, err = run(*arguments)
    assert (code, out) == (2, "")
    assert err


def test_from_two_models_to_a_verdict(tmp_path, run, capsys):
    """Two models of different networks on the same faces, whose folders were moved in between."""
    root = write_tree(tmp_path / "here" / "300w", {"helen/testset": 8, "ibug": 4}, size=(48, 48))
    for seed in range(2):
        model = tiny_model(tmp_path / f"m{seed}.safetensors", seed=seed)
        quick = ["--backend", "torch", "--threads", "1", "--resamples", "100", "--stage", "regions"]
        save = ["--save", str(tmp_path / f"r{seed}.json")]
        assert main(["evaluate", str(model), str(root), *quick, *save]) == 0
        (tmp_path / f"there{seed}").mkdir()
        root = root.rename(tmp_path / f"there{seed}" / "300w")
    capsys.readouterr()
    assert run(tmp_path / "r0.json", tmp_path / "r0.json")[0] == 0
    there, back = run(tmp_path / "r0.json", tmp_path / "r1.json"), run(tmp_path / "r1.json", tmp_path / "r0.json")
    assert there[2] == back[2] == ""
    assert {there[0], back[0]} <= {0, 1}
    better, worse = there[1].splitlines()[-2:]
    assert back[1].splitlines()[-2].split(": ")[1] == worse.split(": ")[1]
    assert back[1].splitlines()[-1].split(": ")[1] == better.split(": ")[1]


def test_as_a_program(files):
    done = subprocess.run(
        [sys.executable, "-m", "cascade_kp", "compare", "same.json", "worse.json"],
        cwd=files,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (1, "")
    assert "worse: NME of" in done.stdout
