"""The numbers of the documentation are those of the results, and the command that writes them fails well."""

from __future__ import annotations

import json
import re
import shutil

import pytest

pytest.importorskip("benchmarks.readme", reason="needs the checkout's benchmarks: python -m pytest in its root")

from benchmarks import readme
from benchmarks.blocks.text import ms, percent

if not (readme.ROOT / "README.md").is_file():
    pytest.skip("README.md is not there", allow_module_level=True)

NOTE = "python -m benchmarks.readme writes this"


def block(name, content=""):
    return f"<!-- begin {name}: {NOTE} -->\n{content}<!-- end {name} -->\n"


@pytest.fixture
def root(tmp_path):
    """A folder with copies of the results, and no text yet."""
    (tmp_path / "benchmarks" / "results").mkdir(parents=True)
    for path in (readme.ROOT / "benchmarks" / "results").glob("*.json"):
        shutil.copy(path, tmp_path / "benchmarks" / "results")
    shutil.copytree(readme.ROOT / "benchmarks" / "results" / "zoo", tmp_path / "benchmarks" / "results" / "zoo")
    return tmp_path


def change(root, name, edit):
    path = root / "benchmarks" / "results" / f"{name}.json"
    content = json.loads(path.read_text())
    edit(content)
    path.write_text(json.dumps(content))


def test_documentation_is_up_to_date(capsys):
    status = readme.main(["--check"])
    assert status == 0, capsys.readouterr().err


def test_no_measurement_in_the_readme_is_typed():
    text = (readme.ROOT / "README.md").read_text(encoding="utf-8")
    text = re.sub(r"<!-- begin ([\w-]+):.*?<!-- end \1 -->", "", text, flags=re.DOTALL)
    text = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
    figures = re.findall(r"[\d.,]*\d ?(?:%|ms\b|s\b|min\b|minutes|seconds|faces/s|faces a second)", text)
    assert set(figures) <= {"68 %"}  # what sigma is, not what was measured


@pytest.mark.parametrize("name", ["accuracy", "faces", "falls-short", "latency", "retrain", "training"])
def test_readme_holds_the_block(name):
    assert f"<!-- begin {name}:" in (readme.ROOT / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", readme.BLOCKS)
def test_block_is_written_checked_and_stable(root, capsys, name):
    text = root / "README.md"
    text.write_text(f"before\n\n{block(name)}\nafter\n")
    assert readme.main(["--check"], root) == 1
    assert f"README.md: block {name} is out of date" in capsys.readouterr().err
    assert block(name) in text.read_text()  # --check writes nothing
    assert readme.main([], root) == 0
    written = text.read_text()
    assert written.startswith("before\n\n<!-- begin")
    assert written.endswith("-->\n\nafter\n")
    assert max(len(line) for line in written.splitlines() if not line.startswith("|")) <= 120
    assert readme.main(["--check"], root) == 0
    assert readme.main([], root) == 0
    assert text.read_text() == written
    text.write_text(written.replace("\n\nafter", "\n\nafterwards"))
    assert readme.main(["--check"], root) == 0  # what lies outside is nobody's business


def test_a_changed_result_makes_the_block_out_of_date(root):
    (root / "README.md").write_text(block("faces"))
    assert readme.main([], root) == 0
    change(root, "faces", lambda content: content["photos"].update(found=100))
    assert readme.main(["--check"], root) == 1
    assert readme.main([], root) == 0
    assert "52.4 %" in (root / "README.md").read_text()


def test_files_that_are_named(root, tmp_path):
    (root / "README.md").write_text(block("faces"))
    other = tmp_path / "page.md"
    other.write_text(block("faces"))
    assert readme.main([str(other)], root) == 0
    assert "annotated faces" in other.read_text()
    assert (root / "README.md").read_text() == block("faces")


def test_blocks_in_examples_are_left_alone(root):
    text = f"```\n{block('nothing')}```\n`<!-- begin faces: x -->`\n"
    (root / "README.md").write_text(text)
    assert readme.main([], root) == 0
    assert (root / "README.md").read_text() == text


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (block("speed"), r"README.md:1: expected a block of ablation, accuracy, .*, got speed"),
        (f"<!-- begin faces: {NOTE} -->\n", r"README.md: block faces has no line <!-- end faces -->"),
        ("\n<!-- end faces -->\n", r"README.md:2: expected the end of no block, got that of faces"),
        (
            "<!-- begin faces -->\n<!-- end latency -->\n",
            r"README.md:2: expected the end of faces, got that of latency",
        ),
        ("<!-- begin faces -->\n<!-- begin latency -->\n", r"README.md:2: block latency begins before block faces"),
    ],
)
def test_broken_blocks(root, capsys, text, message):
    (root / "README.md").write_text(text)
    assert readme.main([], root) == 2
    assert re.search(message, capsys.readouterr().err)
    assert (root / "README.md").read_text() == text


def test_missing_and_broken_results(root, capsys):
    (root / "README.md").write_text(block("faces"))
    change(root, "faces", lambda content: content["photos"].pop("others"))
    assert readme.main([], root) == 2
    assert re.search(r"block faces: .*faces.json: photos: expected the key 'others', found", capsys.readouterr().err)
    file = root / "benchmarks" / "results" / "faces.json"
    for content, message in [("{", "expected a result as JSON"), ("[]", "expected a JSON object, got list")]:
        file.write_text(content)
        assert readme.main(["--check"], root) == 2
        assert re.search(rf"README.md: block faces: .*faces.json: {message}", capsys.readouterr().err)
    file.unlink()
    assert readme.main(["--check"], root) == 2
    assert "faces.json: no such result file" in capsys.readouterr().err


def test_missing_row(root, capsys):
    (root / "README.md").write_text(block("latency"))
    change(root, "latency", lambda content: content["boxes_given"].pop(0))
    assert readme.main([], root) == 2
    wanted = "boxes_given: expected one row with face_px 288, faces 1, model 'ibug68', stage 'regions'"
    assert wanted in capsys.readouterr().err


def cell(nme, missed=0, n=10):
    return {
        "nme": nme,
        "auc@0.08": 0.5,
        "fr@0.08": 0.005,
        "n": n,
        "missed": missed,
        "excluded": 0,
        "nme_ci95": [0.031, 0.0349],
        "auc@0.08_ci95": [0.45, 0.55],
        "fr@0.08_ci95": [0.0, 0.02],
    }


def made_evaluation(missed, boxes=""):
    stages = {
        stage: {"68": cell(nme, missed), "51": cell(nme - 0.01, missed)}
        for stage, nme in [("coarse", 0.036), ("regions", 0.0325), ("oracle", 0.03)]
    }
    return {
        "command": f"cascade-kp evaluate ibug68 .../data/300w/helen/testset{boxes} --save benchmarks/results/x.json",
        "excluded": 0,
        "calibration": {"holds": 0.674, "expected": 0.68},
        "subsets": dict.fromkeys(["everything", "helen/testset", "lfpw/testset", "common"], stages),
    }


def test_accuracy_table(tmp_path):
    results = tmp_path / "benchmarks" / "results"
    results.mkdir(parents=True)
    for name, content in [("truth", made_evaluation(0)), ("detector", made_evaluation(1, " --boxes detector"))]:
        (results / f"evaluation-ibug68-common-{name}.json").write_text(json.dumps(content))
    (tmp_path / "README.md").write_text(block("accuracy"))
    assert readme.main([], tmp_path) == 0
    text = (tmp_path / "README.md").read_text()
    lines = text.splitlines()
    assert lines[1:3] == [
        "| test set | boxes | | NME, 68 points | NME, 51 points | AUC@0.08 | FR@0.08 | missed |",
        "|---|---|---|---|---|---|---|---|",
    ]
    assert "| HELEN (10) | truth | **the cascade** | **3.25** | 2.25 | 50.0 | 0.5 | 0 |" in lines
    assert "| LFPW (10) | detector | stage one alone | 3.60 | 2.60 | 50.0 | 0.5 | 1 |" in lines
    assert (
        "| both, *common* (10) | truth | oracle crops | 3.00 (3.10 to 3.49) | 2.00 (3.10 to 3.49) | "
        "50.0 (45.0 to 55.0) | 0.5 (0.0 to 2.0) | 0 |"
    ) in lines
    assert len([line for line in lines if line.startswith("|")]) == 2 + 3 * 5
    prose = " ".join(lines)
    assert "`cascade-kp evaluate ibug68 DATA/300w/helen/testset` prints this" in prose
    assert "hold 68 % of the errors; it held 67 %" in prose


@pytest.mark.parametrize(
    ("fraction", "digits", "sign", "text"),
    [
        (0.0325, 2, "", "3.25"),
        (0.9267, 1, "", "92.7"),
        (0.008, 1, "+", "+0.8"),
        (-0.021, 1, "+", "-2.1"),
        (-0.0001, 1, "+", "0.0"),
        (0.0, 1, "", "0.0"),
        (None, 2, "", "-"),
    ],
)
def test_percent(fraction, digits, sign, text):
    assert percent(fraction, digits, sign) == text


@pytest.mark.parametrize(("value", "text"), [(18.84, "18.8"), (132.6, "133"), (1374.4, "1,370"), (0.04, "0.0")])
def test_ms(value, text):
    assert ms(value) == text


def test_slower_and_faster_processes_read_differently(root):
    (root / "README.md").write_text(block("training"))

    def speeds(two):
        def edit(content):
            for row in content["rows"]:
                row["faces_per_s"] = two if row["processes"] == 2 else 100.0

        change(root, "training", edit)
        assert readme.main([], root) == 0
        return " ".join((root / "README.md").read_text().split())

    assert "are slower than one of two threads on one CPU (50 and 50), as they exchange" in speeds(50.0)
    assert "are faster than one of two threads on one CPU (150 and 150) (`python" in speeds(150.0)
