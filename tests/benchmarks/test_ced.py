"""The cascade paper's figure: published curves are worth what was published, and ours stand where they belong."""

from __future__ import annotations

import csv
import itertools
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from evaluation_case import made_evaluation
from PIL import Image

from cascade_kp.errors import InputError
from cascade_kp.evaluation.ced import read_curves
from cascade_kp.evaluation.record import write_json

ROOT = Path(__file__).resolve().parents[2]
if not (ROOT / "benchmarks" / "ced.py").is_file():
    pytest.skip("needs the checkout's benchmarks", allow_module_level=True)
if str(ROOT) not in sys.path:
    sys.path.append(str(ROOT))
ced = pytest.importorskip("benchmarks.ced", reason="needs the checkout's benchmarks: python -m pytest in its root")

OFFICIAL, DIGITISED = "300w_challenge_official.csv", "300w_cascade_paper_digitised.csv"
# AUC and FR at 0.08 in percent. Source: the organisers' tables, and those of the cascade paper.
WINNERS = {
    "Fan et al.": (38.8, 16.3),
    "Deng et al.": (36.3, 11.8),
    "Yan et al.": (35.2, 12.7),
    "Zhou et al.": (33.0, 13.0),
}
PAPER = {
    "68": ((37.3, 9.0), (38.7, 8.2), (39.6, 7.1), (42.8, 3.8)),
    "51": ((45.6, 6.2), (47.9, 5.7), (49.1, 5.1), (54.0, 1.0)),
}


@pytest.fixture(params=["committed", "research data"])
def folder(request):
    """Where the curves lie; both places must hold the same."""
    return (
        ROOT / "benchmarks" / "curves"
        if request.param == "committed"
        else request.getfixturevalue("shared_data") / "ced"
    )


def test_winners_by_our_curves(folder):
    curves = read_curves(folder / OFFICIAL, norm="inter_ocular")["all", "68"]
    for name, (auc, fr) in WINNERS.items():
        assert 100 * curves[name].auc(0.08) == pytest.approx(auc, abs=0.1)
        assert 100 * curves[name].fr(0.08) == pytest.approx(fr, abs=0.1)


def test_winners_by_the_file_alone(folder):
    """None of our code: rows, the trapezoid rule in words, and the last row."""
    with (folder / OFFICIAL).open(encoding="utf-8", newline="") as file:
        rows = [row for row in csv.DictReader(file) if (row["subset"], row["points"]) == ("all", "68")]
    for name, (auc, fr) in WINNERS.items():
        points = [(float(row["error"]), float(row["fraction"])) for row in rows if row["method"] == name]
        area = 0.0
        for (left, low), (right, high) in itertools.pairwise(points):
            if right > 0.08:
                high = low + (high - low) * max(0.0, 0.08 - left) / (right - left)  # noqa: PLW2901 (cut at 0.08)
                right = 0.08  # noqa: PLW2901
            if right > left:
                area += (right - left) * (low + high) / 2
                end = high
        assert 100 * area / 0.08 == pytest.approx(auc, abs=0.1)
        assert 100 * (1 - end) == pytest.approx(fr, abs=0.1)


@pytest.mark.parametrize("points", ["68", "51"])
def test_the_papers_variants(folder, points):
    curves = read_curves(folder / DIGITISED, norm="inter_ocular")["all", points]
    for name, (auc, fr) in zip(ced._PAPER, PAPER[points], strict=True):
        assert 100 * curves[name].auc(0.08) == pytest.approx(auc, abs=0.1)
        assert 100 * curves[name].fr(0.08) == pytest.approx(fr, abs=0.1)


@pytest.mark.parametrize("name", [OFFICIAL, DIGITISED])
def test_committed_curves_are_the_originals(shared_data, name):
    ours = read_curves(ROOT / "benchmarks" / "curves" / name, norm="inter_ocular")
    theirs = read_curves(shared_data / "ced" / name, norm="inter_ocular")
    assert ours.keys() == theirs.keys()
    for key, curves in theirs.items():
        assert list(ours[key]) == list(curves)
        for method, curve in curves.items():
            error, fraction = np.asarray(curve.samples).T
            np.testing.assert_allclose(ours[key][method].at(error), fraction, atol=1e-12)


def made(folders, n=12, name="made", **options):
    """A result on folders whose unions are as the protocol makes them."""
    evaluation = made_evaluation(n, folders=folders, name=name, **options)
    subsets = evaluation.faces.subsets()
    return replace(
        evaluation.result,
        subsets=subsets,
        digests=tuple(f"{folders[0]}{i}" for i in range(n)),
        protocol=dict(evaluation.result.protocol) | {"resamples": 50, "seed": 0},
        resamples=50,
    )


def test_without_ours_only_published_curves():
    panels, columns = ced.figure([])
    assert (len(panels), columns) == (6, 3)
    assert all(curve.published for panel in panels for curve in panel.curves)
    assert [len(panel.curves) for panel in panels] == [8] * 6


def test_private_faces_stand_among_the_published():
    panels, columns = ced.figure([made(["300w/01_Indoor", "300w/02_Outdoor"], n=592)])
    assert columns == 3
    assert [panel.title for panel in panels] == [
        f"{p} points, {s}" for p in (68, 51) for s in ("all", "indoor", "outdoor")
    ]
    ours = [[curve for curve in panel.curves if not curve.published] for panel in panels]
    assert [len(curves) for curves in ours] == [3] * 6
    assert [curves[0].n for curves in ours] == [592, 296, 296] * 2
    assert not any(panel.apart for panel in panels)
    assert panels[0].subtitle == "private set of 300-W, 600 faces, ours 592"


def test_a_few_faces_in_a_folder_of_that_name_are_not_the_private_set():
    panels, columns = ced.figure([made(["300w/01_Indoor", "300w/02_Outdoor"])])
    assert columns == 4
    assert all(curve.published for panel in panels if not panel.apart for curve in panel.curves)
    assert [panel.subtitle.rsplit(", ", 1)[1] for panel in panels if panel.apart] == ["12"] * 2


def test_results_of_another_norm_are_refused():
    result = made(["helen/testset", "lfpw/testset"])
    with pytest.raises(InputError, match="by the norm of the published curves, inter_ocular, got box"):
        ced.figure([replace(result, protocol={**result.protocol, "norm": "box"})])


def test_other_faces_stand_apart():
    common, other = made(["helen/testset", "lfpw/testset"]), made(["300w/afw"], n=5, name="second")
    panels, columns = ced.figure([common, other, replace(other, model={"name": "second", "sha256": "ef" * 32})])
    assert (len(panels), columns) == (10, 5)
    apart = [panel for panel in panels if panel.apart]
    assert [(panel.title, panel.subtitle) for panel in apart[:2]] == [
        ("68 points, common", "other faces: HELEN + LFPW test, 12 of 554"),
        ("68 points, everything", "other faces: 300w/afw, 5"),
    ]
    assert not any(curve.published for panel in apart for curve in panel.curves)
    assert all(curve.published for panel in panels if not panel.apart for curve in panel.curves)
    # Two files of one name are told apart.
    assert {curve.group for curve in apart[1].curves} == {
        f"second {x} (true face boxes)" for x in ("abababab", "efefefef")
    }


def test_needs_both_groups_of_points():
    result = made(["300w/afw"])
    errors = {stage: {"68": groups["68"]} for stage, groups in result.errors.items()}
    with pytest.raises(InputError, match="made: expected results for 51 points, got 68"):
        ced.figure([replace(result, errors=errors)])


def test_command(tmp_path, capsys):
    file = tmp_path / "made.json"
    write_json(file, made(["helen/testset", "lfpw/testset"], missed=(2,)).to_dict())
    assert ced.main(["--results", str(file), "--out", str(tmp_path / "figure")]) == 0
    out = capsys.readouterr().out
    assert "300-W challenge (published): Fan et al." in out
    assert (
        "68 points, common (other faces: HELEN + LFPW test, 12 of 554)   OTHER FACES than the published curves'" in out
    )
    line = next(line for line in out.splitlines() if "made (true face boxes): coarse" in line)
    assert line.split()[-4:-2] == ["12", "1"]
    with Image.open(tmp_path / "figure.png") as image:
        assert image.width > 2000
    assert (tmp_path / "figure.svg").stat().st_size > 10_000


def test_command_says_what_is_wrong(tmp_path, capsys):
    assert ced.main(["--results", str(tmp_path / "none.json")]) == 1
    assert "none.json: expected a result of cascade-kp evaluate" in capsys.readouterr().err
    for arguments, message in (
        (["--model", "ibug68"], "--model: expected DATA"),
        (["--out", str(tmp_path / "none" / "ced")], "--out: expected a name in a folder that exists"),
    ):
        with pytest.raises(SystemExit) as stopped:
            ced.main(arguments)
        assert stopped.value.code == 2
        assert message in capsys.readouterr().err
