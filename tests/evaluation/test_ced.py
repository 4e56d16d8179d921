"""CED figures: what a curve is worth, what is refused, and that a figure is what it says, byte for byte."""

from __future__ import annotations

import dataclasses
import math
import re
import subprocess
import sys
from xml.etree import ElementTree as ET

import matplotlib as mpl
import numpy as np
import pytest
from evaluation_case import made_evaluation
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from cascade_kp.errors import DataError, InputError
from cascade_kp.evaluation import ced
from cascade_kp.evaluation.ced import Curve, Panel, curves_of, draw_ced, draw_result, draw_results, read_curves

ERRORS = (0.02, 0.04, 0.04, 0.2, math.inf, math.nan)
RAMP = ((0.0, 0.0), (0.04, 0.0), (0.12, 0.8))
HEAD = "subset,points,method,error,fraction\n"


def measured(label="ours", norm="inter_ocular", **options):
    return Curve(label=label, norm=norm, errors=options.pop("errors", ERRORS), **options)


def sampled(label="theirs", samples=RAMP, norm="inter_ocular", **options):
    return Curve(label=label, norm=norm, samples=samples, published=True, **options)


@pytest.fixture(scope="module")
def result():
    return made_evaluation(40, stages=("coarse", "regions", "boxes", "oracle"), missed=(3,), excluded=(5, 6)).result


class TestCurve:
    def test_errors_by_hand(self):
        curve = measured()
        assert (curve.n, curve.missed, curve.excluded) == (6, 1, 1)
        # Of five scored faces: (1 - 2/8) + 2 (1 - 4/8) + 0 + 0, and two beyond 0.08.
        assert curve.auc(0.08) == pytest.approx((0.75 + 0.5 + 0.5) / 5)
        assert curve.fr(0.08) == pytest.approx(2 / 5)
        np.testing.assert_allclose(curve.at([0.0, 0.02, 0.039, 0.04, 1.0]), [0, 0.2, 0.2, 0.6, 0.8])

    def test_line_of_errors_is_the_staircase(self):
        x, y = measured().line(0.1)
        np.testing.assert_allclose(x, [0, 0.02, 0.02, 0.04, 0.04, 0.1])
        np.testing.assert_allclose(y, [0, 0, 0.2, 0.2, 0.6, 0.6])
        # Its area is the AUC.
        assert np.trapezoid(y, x) / 0.1 == pytest.approx(measured().auc(0.1))

    def test_missed_faces_keep_it_below_one(self):
        assert measured().line(10.0)[1][-1] == pytest.approx(4 / 5)
        nobody = measured(errors=(math.inf, math.inf))
        np.testing.assert_array_equal(nobody.line(0.08)[1], [0, 0])
        assert (nobody.auc(0.08), nobody.fr(0.08)) == (0.0, 1.0)

    def test_samples_by_hand(self):
        curve = sampled()
        assert (curve.n, curve.missed, curve.excluded) == (None, 0, 0)
        # At 0.08 it is halfway up the ramp, 0.4: a triangle of 0.04 by 0.4 over 0.08.
        assert curve.auc(0.08) == pytest.approx(0.5 * 0.04 * 0.4 / 0.08)
        assert curve.fr(0.08) == pytest.approx(0.6)
        assert curve.auc(0.04) == 0.0
        x, y = curve.line(0.08)
        np.testing.assert_allclose((x, y), [[0, 0.04, 0.08], [0, 0, 0.4]])
        assert curve.line(1.0)[0][-1] == 0.12  # nothing is drawn that is not known

    def test_samples_end_somewhere(self):
        with pytest.raises(InputError, match=r"thresholds up to 0\.12, its last, got 0\.2"):
            sampled().auc(0.2)

    @given(st.lists(st.floats(0, 0.3, allow_subnormal=False), min_size=1, max_size=20), st.floats(0.01, 0.2))
    def test_samples_of_a_fine_grid_agree_with_the_errors(self, errors, threshold):
        exact, grid = measured(errors=errors), np.linspace(0, 0.4, 8001)
        close = sampled(samples=np.stack([grid, np.maximum.accumulate(exact.at(grid))], axis=1))
        # A step is at most one grid cell off, in each of which the curve rises by at most 1.
        assert close.auc(threshold) == pytest.approx(exact.auc(threshold), abs=5e-5 / threshold + 1e-9)

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"label": " ", "errors": [0.1]}, "expected a label"),
            ({"norm": "pupil", "errors": [0.1]}, "inter_ocular, inter_pupil, box, got 'pupil'"),
            ({}, "either errors or samples, got neither"),
            ({"errors": [0.1], "samples": RAMP}, "got both"),
            ({"errors": []}, r"at least one, got \(0,\)"),
            ({"errors": [[0.1]]}, r"\(N,\), at least one, got \(1, 1\)"),
            ({"errors": [0.1, -0.1]}, r"at least 0, got -0\.1"),
            ({"errors": [math.nan, math.nan]}, "a face that can be scored, got 2 that are all excluded"),
            ({"errors": ["much"]}, "expected numbers"),
            ({"samples": [(0, 0)]}, "at least two"),
            ({"samples": [(0, 0), (0.1, 1.1)]}, r"from 0 to 1, got 0 to 1\.1"),
            ({"samples": [(0.1, 0), (0.2, 1)]}, "rises from error 0 on"),
            ({"samples": [(0, 0.5), (0.2, 0.4)]}, "rises from error 0 on"),
            ({"samples": [(0, 0), (0, 0.4)]}, "rises from error 0 on"),
        ],
    )
    def test_refuses(self, options, message):
        with pytest.raises(InputError, match=message):
            Curve(**{"label": "mine", "norm": "box"} | options)

    def test_norm_has_no_default(self):
        with pytest.raises(TypeError, match="norm"):
            Curve(label="mine", errors=[0.1])

    @pytest.mark.parametrize("threshold", [0, -0.1, math.nan, math.inf])
    def test_refuses_thresholds(self, threshold):
        for curve in (measured(), sampled()):
            for metric in (curve.auc, curve.fr):
                with pytest.raises(InputError, match="positive fraction"):
                    metric(threshold)
        with pytest.raises(InputError, match="at least 0"):
            measured().at([-1.0])

    def test_keeps_its_own_numbers(self):
        errors = np.array([0.1, 0.2])
        curve = measured(errors=errors)
        errors[:] = 5
        assert curve.fr(0.3) == 0
        with pytest.raises(ValueError, match="read-only"):
            curve.errors[0] = 1


class TestReadCurves:
    def write(self, folder, text):
        path = folder / "curves.csv"
        path.write_text(text, encoding="utf-8")
        return path

    def test_reads(self, tmp_path):
        text = f'{HEAD}all,68,"a, b",0,0\nall,68,"a, b",0.1,0.5\nall,51,c,0.0,0.1\nall,51,c,0.2,1\n'
        curves = read_curves(self.write(tmp_path, text), norm="inter_ocular", group="theirs")
        assert {key: list(of) for key, of in curves.items()} == {("all", "68"): ["a, b"], ("all", "51"): ["c"]}
        curve = curves["all", "68"]["a, b"]
        assert (curve.name, curve.published, curve.norm) == ("theirs: a, b", True, "inter_ocular")
        assert curve.auc(0.1) == pytest.approx(0.25)

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("", r"curves\.csv:1: expected the columns subset,points,method,error,fraction, got an empty file"),
            ("subset,error\n", r":1: .* got subset,error"),
            (HEAD, ":2: expected at least one curve"),
            (f"{HEAD}all,68,a,0,0\nall,68,a,0.1\n", ":3: expected 5 fields, got 4"),
            (f"{HEAD}all,68,,0,0\n", ":2: expected subset, points and method, got all,68,"),
            (f"{HEAD}all,68,a,0,0\nall,68,a,x,0\n", ":3: expected error to be a number at least 0, got 'x'"),
            (f"{HEAD}all,68,a,nan,0\n", ":2: expected error .* got 'nan'"),
            (f"{HEAD}all,68,a,0,1.2\n", r":2: expected fraction to be a number from 0 to 1, got '1\.2'"),
            (f"{HEAD}all,68,a,0.1,0\n", r":2: expected all 68 a to begin at error 0, got 0\.1"),
            (f"{HEAD}all,68,a,0,0\nall,68,a,0,0.1\n", ":3: expected all 68 a to rise from error 0"),
            (f"{HEAD}all,68,a,0,0.5\nall,68,a,1,0.4\n", r":3: .* to rise from error 0, fraction 0\.5, got 1, 0\.4"),
            (f"{HEAD}all,68,a,0,0\n", "at least 2 samples of all 68 a, got 1"),
            (f'{HEAD}all,68,"a,0,0\n', "expected a CSV file"),
        ],
    )
    def test_refuses(self, tmp_path, text, message):
        with pytest.raises(DataError, match=message):
            read_curves(self.write(tmp_path, text), norm="box")

    def test_no_file(self, tmp_path):
        with pytest.raises(DataError, match=r"none\.csv: expected a CSV file of curves, got: .*No such file"):
            read_curves(tmp_path / "none.csv", norm="box")
        path = tmp_path / "binary.csv"
        path.write_bytes(b"\xff\xfe\x00")
        with pytest.raises(DataError, match="expected a CSV file"):
            read_curves(path, norm="box")


class TestCurvesOf:
    def test_stages_in_the_order_of_the_cascade(self, result):
        curves = curves_of(result)
        assert [curve.family for curve in curves] == ["coarse", "points", "boxes", "oracle"]
        assert {curve.group for curve in curves} == {"made (true face boxes)"}
        assert [curve.label for curve in curves][:2] == ["coarse", "regions, boxes from stage-one points"]
        assert (curves[0].n, curves[0].missed, curves[0].excluded) == (40, 1, 2)

    def test_figures_are_those_of_the_result(self, result):
        for curve, stage in zip(curves_of(result, points="51"), ("coarse", "regions", "boxes", "oracle"), strict=True):
            summary = result.summary(stage, "51")
            assert (curve.auc(0.08), curve.fr(0.08)) == (summary.auc, summary.fr)

    def test_chosen(self, result):
        curves = curves_of(result, stages=["oracle"], points=["51", "mouth"], subset="made/first", name="mine")
        assert [curve.label.rsplit(", ", 1)[1] for curve in curves] == ["51 points", "mouth"]
        assert curves[0].group == "mine (true face boxes)"
        np.testing.assert_array_equal(curves[1].errors, result.faces("oracle", "mouth", "made/first"))
        with pytest.raises(InputError, match=r"stage: expected one of .* got 'third'"):
            curves_of(result, stages=["third"])

    @pytest.mark.parametrize(
        ("stages", "family"),
        [
            (("coarse", "regions", "points", "oracle"), "boxes"),  # the other way is points: its own are boxes
            (("coarse", "regions", "oracle"), "points"),
            (("regions",), "regions"),  # nothing tells
        ],
    )
    def test_how_regions_were_placed(self, stages, family):
        result = made_evaluation(4, stages=stages).result
        assert family in {curve.family for curve in curves_of(result)}


class TestDraw:
    def test_writes_both(self, tmp_path):
        names = [tmp_path / "a.png", tmp_path / "b.SVG"]
        content = [sampled(), measured(), measured("a second", errors=(0.03, 0.05))]
        figure = draw_ced(content, names, title="Made", limit=0.1, dpi=200)
        with Image.open(names[0]) as image:
            assert image.size[0] == pytest.approx(figure.get_size_inches()[0] * 200, abs=1)
            assert image.info["dpi"][0] == pytest.approx(200, abs=0.1)
        root = ET.fromstring(names[1].read_text(encoding="utf-8"))  # noqa: S314 (our own file)
        assert root.tag.endswith("svg")
        assert not [path for path in tmp_path.iterdir() if path.suffix == ".tmp"]
        dashed = {line.is_dashed() for line in figure.axes[0].lines if line.get_color() == ced._GREYS[0][0]}
        assert dashed == {True}

    def test_the_same_bytes_every_time_whatever_the_settings(self, tmp_path):
        content = [measured(), sampled()]
        draw_ced(content, [tmp_path / "a.svg", tmp_path / "a.png"], dpi=60)
        with mpl.rc_context({"font.size": 30, "svg.fonttype": "none", "axes.grid": False, "svg.hashsalt": None}):
            before = dict(mpl.rcParams)
            draw_ced(content, [tmp_path / "b.svg", tmp_path / "b.png"], dpi=60)
            assert dict(mpl.rcParams) == before
        for kind in ("svg", "png"):
            assert (tmp_path / f"a.{kind}").read_bytes() == (tmp_path / f"b.{kind}").read_bytes()
        text = (tmp_path / "a.svg").read_text(encoding="utf-8")
        assert "<dc:date>" not in text
        assert mpl.__version__ not in text
        assert "<text" not in text  # letters are outlines

    def test_pyplot_stays_out(self):
        code = "import cascade_kp.evaluation.ced, sys; sys.exit('matplotlib.pyplot' in sys.modules)"
        assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0

    def test_the_table_holds_the_figures(self, tmp_path):
        ours = measured(group="made", errors=(*ERRORS, 0.01))
        panels = [
            Panel(title="first", subtitle="six", curves=[ours, sampled(group="books")]),
            Panel(title="second", curves=[measured(group="made", errors=(0.01, 0.02))], apart=True),
        ]
        figure = draw_ced(panels, tmp_path / "a.svg")
        texts = [text.get_text() for text in figure.axes[-1].texts]
        assert texts[:3] == ["AUC / FR at 0.08, %", "(a)", "(b)"]
        # (0.75 + 0.5 + 0.5 + 0.875) / 6, two of six; (0.875 + 0.75) / 2; the ramp as above.
        assert "43.8 / 33.3 (1 missed, 1 excluded)" in texts
        assert "81.2 / 0.0" in texts
        assert "10.0 / 60.0" in texts
        assert {"made", "ours", "books", "theirs", "\N{EN DASH}"} <= set(texts)
        titles = [text.get_text() for axes in figure.axes[:2] for text in axes.texts]
        assert titles == ["six", "(a) first", "(b) second"]
        assert [axes.get_xlabel() for axes in figure.axes[:2]] == ["inter-ocular normalised error"] * 2
        assert [axes.get_ylabel() for axes in figure.axes[:2]] == ["fraction of faces", ""]

    def test_nothing_lies_over_anything(self, tmp_path, result):
        panels = [
            Panel(title=points, subtitle="made", curves=curves_of(result, points=points)) for points in ("68", "51")
        ]
        figure = draw_ced(panels, tmp_path / "a.svg")
        figure.canvas.draw()
        boxes = [axes.get_tightbbox() for axes in figure.axes]
        width, height = figure.bbox.size
        for i, box in enumerate(boxes):
            assert box.x0 >= 0
            assert box.y0 >= 0
            assert box.x1 <= width + 1
            assert box.y1 <= height + 1
            # Neighbours' last and first tick label may share the gap, but not a pixel.
            assert not any(box.overlaps(other) for other in boxes[i + 1 :])
        table = [text.get_window_extent() for text in figure.axes[-1].texts]
        assert not any(a.overlaps(b) for i, a in enumerate(table) for b in table[i + 1 :])

    def test_one_name_one_style_in_all_panels(self, tmp_path, result):
        panels = [
            Panel(title="one", curves=[sampled(), *curves_of(result)]),
            Panel(title="two", curves=curves_of(result)[::-1]),
        ]
        styles = ced._styles(panels)
        assert len({(style.colour, style.dashes, style.marker) for style in styles.values()}) == 5
        figure = draw_ced(panels, tmp_path / "a.png", dpi=50)
        colours = [{line.get_color() for line in axes.lines} for axes in figure.axes[:2]]
        assert colours[1] < colours[0]

    def test_published_curves_are_dashed_and_stages_keep_their_colour(self):
        curves = [sampled(family="oracle"), sampled("grey"), measured(family="oracle"), measured("b", family="coarse")]
        styles = ced._styles([Panel(title="", curves=curves)])
        assert styles["theirs"].dashes is not None
        assert styles["ours"].dashes is None
        assert styles["theirs"].colour == styles["ours"].colour != styles["b"].colour
        red, green, blue = (styles["grey"].colour[i : i + 2] for i in (1, 3, 5))
        assert red == green == blue

    def test_models_at_one_stage_have_colours_of_their_own(self):
        curves = [measured(label, family="points") for label in "abc"]
        styles = ced._styles([Panel(title="", curves=curves)])
        assert len({style.colour for style in styles.values()}) == 3

    def test_colours_of_stages_differ_in_lightness(self):
        def lightness(colour):  # CIE L*
            linear = [(int(colour[i : i + 2], 16) / 255) ** 2.2 for i in (1, 3, 5)]
            return 116 * np.cbrt(np.dot((0.2126, 0.7152, 0.0722), linear)) - 16

        steps = np.diff([lightness(colour) for colour in ced._PALETTE[:4]])
        assert (steps < -12).all()

    @pytest.mark.parametrize(
        ("content", "options", "message"),
        [
            ([], {}, "at least one curve or panel, got none"),
            ([Panel(title="p", curves=[])], {}, "panel 'p': expected at least one curve"),
            ([measured(), Panel(title="p", curves=[measured()])], {}, "curves only or panels only, got Curve, Panel"),
            ([measured(), measured("b", norm="box")], {}, "one norm.*ours by inter_ocular, b by box"),
            ([measured(), measured()], {}, "different names, got 'ours' more than once"),
            ([sampled(samples=((0, 0), (0.05, 1)))], {}, r"up to 0\.05, its last, got 0\.08"),
            ([measured()], {"limit": 0}, "limit: expected a positive fraction"),
            ([measured()], {"threshold": math.nan}, "threshold: expected a positive fraction"),
            ([measured()], {"columns": 0}, "columns: expected a positive whole number, got 0"),
            ([measured()], {"dpi": 9}, "dpi: expected a whole number from 50 to 1200, got 9"),
        ],
    )
    def test_refuses(self, tmp_path, content, options, message):
        with pytest.raises(InputError, match=message):
            draw_ced(content, tmp_path / "a.png", **options)
        assert not list(tmp_path.iterdir())

    @pytest.mark.parametrize("name", ["a.pdf", "a", "a.png.txt"])
    def test_refuses_other_suffixes_before_any_work(self, tmp_path, name):
        with pytest.raises(InputError, match=re.escape(f"{name}: expected a name that ends in .png or .svg, got ")):
            draw_ced([measured()], [tmp_path / "fine.png", tmp_path / name])
        assert not list(tmp_path.iterdir())

    def test_no_such_folder(self, tmp_path):
        with pytest.raises(InputError, match="expected a file that can be written, got No such file"):
            draw_ced([measured()], tmp_path / "none" / "a.png", dpi=50)
        with pytest.raises(InputError, match="at least one file, got none"):
            draw_ced([measured()], [])


class TestResults:
    def test_a_panel_for_each_group_of_points(self, tmp_path, result):
        both = dataclasses.replace(result, protocol=dict(result.protocol) | {"points": ["68", "mouth"]})
        figure = draw_result(both, tmp_path / "a.svg")
        titles = [text.get_text() for axes in figure.axes[:-1] for text in axes.texts]
        assert titles == [
            "made/first, made/second, 40 faces",
            "(a) 68 points",
            "made/first, made/second, 40 faces",
            "(b) mouth",
        ]

    def test_published_curves_beside_the_same_subset_only(self, tmp_path, result):
        path = tmp_path / "books.csv"
        path.write_text(f"{HEAD}made/first,68,a,0,0\nmade/first,68,a,0.1,1\nall,68,a,0,0\nall,68,a,0.1,1\n", "utf-8")
        figure = draw_result(result, tmp_path / "a.png", published=path)
        texts = [text.get_text() for text in figure.axes[-1].texts]
        assert {"books (published)", "a", "40.0 / 20.0"} <= set(texts)
        assert [text.get_text() for text in figure.axes[0].texts] == ["made/first, 20 faces", "68 points"]
        path.write_text(f"{HEAD}private,68,a,0,0\nprivate,68,a,0.1,1\n", "utf-8")
        with pytest.raises(InputError, match=r"subsets \(everything, .*\) and points \(68\), got private 68"):
            draw_result(result, tmp_path / "b.png", published=path)

    def test_two_results(self, tmp_path, result):
        other = made_evaluation(40, stages=("coarse", "regions", "boxes", "oracle"), seed=1).result
        figure = draw_results({"old": result, "new": other}, tmp_path / "a.png")
        texts = [text.get_text() for text in figure.axes[-1].texts]
        assert {"old (true face boxes)", "new (true face boxes)"} <= set(texts)
        assert len({line.get_color() for line in figure.axes[0].lines}) == 2
        with pytest.raises(InputError, match="few: expected the 40 faces of the first result, got 3 others"):
            draw_results({"old": result, "few": made_evaluation(3).result}, tmp_path / "b.png")
        with pytest.raises(InputError, match="at least one result"):
            draw_results({}, tmp_path / "b.png")
        with pytest.raises(InputError, match="one norm"):
            draw_results({"old": result, "new": made_evaluation(40, norm="box").result}, tmp_path / "b.png")
