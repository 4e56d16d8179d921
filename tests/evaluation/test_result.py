"""Results: figures from per-face errors, and JSON that says the same when it is read again."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from protocol_case import made_errors, made_result

from cascade_kp.errors import DataError, InputError
from cascade_kp.evaluation import result as module
from cascade_kp.evaluation.bootstrap import intervals
from cascade_kp.evaluation.record import FORMAT_VERSION
from cascade_kp.evaluation.result import Result, load_result
from cascade_kp.evaluation.text import result_text
from cascade_kp.metrics import summarise

N = 12
FOLDERS = ["helen/testset"] * 7 + ["300w/ibug"] * 5


@pytest.fixture(scope="module")
def result():
    """Two stages, two folders and a union, faces missed and excluded. Never changed."""
    coarse, regions = made_errors(N, 1), made_errors(N, 2)
    for groups in (coarse, regions):
        for errors in groups.values():
            errors[[2, 8]] = math.inf
            errors[4] = math.nan
    regions["mouth"][0] = math.nan  # no label there
    regions["68"][1] = 0.2
    return made_result(
        regions,
        folders=FOLDERS,
        members={"challenging": np.arange(7, 12), "odd": np.array([1, 3, 9])},
        stages={"coarse": coarse, "regions": regions},
        envelope={"command": "cascade-kp evaluate é", "made": "2020-01-01", "machine": {"cores": 2}},
        calibration={"holds": 0.5, "expected": 0.68, "by_points": {"68": None}},
    )


def plain(result):
    """JSON and back, every token one that JSON knows."""

    def refuse(token):
        raise AssertionError(token)

    return json.loads(json.dumps(result.to_dict(), allow_nan=False), parse_constant=refuse)


def again(result):
    return Result.from_dict(plain(result))


# ------------------------------------------------------------------------------------------ figures


def test_the_headline_stands_at_the_top_as_fractions(result):
    content = plain(result)
    wanted = summarise(result.errors["regions"]["68"], 0.08)
    assert content["nme"] == pytest.approx(wanted.nme, abs=1e-7)
    assert content["auc@0.08"] == pytest.approx(wanted.auc, abs=1e-7)
    assert content["fr@0.08"] == pytest.approx(wanted.fr, abs=1e-7)
    assert (content["n"], content["missed"], content["excluded"]) == (N, 2, 1)
    assert content["fr@0.08"] >= 3 / 11 - 1e-7  # two missed and one of 0.2, of those that can be scored
    for name in ("nme", "auc@0.08", "fr@0.08"):
        low, high = content[f"{name}_ci95"]
        assert low <= content[name] <= high
    assert content["model"]["sha256"] == "ab" * 32
    assert content["data"]["sha256"] == "cd" * 32
    assert content["protocol"]["text"] == "made"
    assert (content["format"], content["kind"]) == (FORMAT_VERSION, "evaluation")
    assert content["command"] == "cascade-kp evaluate é"


def test_missed_and_excluded_faces_are_named(result):
    content = plain(result)
    assert content["missed_faces"] == list(result.missed) == [result.names[2], result.names[8]]
    assert content["excluded_faces"] == list(result.excluded) == [result.names[4]]


def test_the_threshold_is_in_the_keys():
    other = made_result(made_errors(4), threshold=0.1, protocol={"threshold": 0.1})
    assert {"auc@0.1", "fr@0.1", "auc@0.1_ci95"} <= plain(other).keys()
    assert again(other).threshold == 0.1
    assert "AUC@0.1" in result_text(other)


def test_every_subset_stage_and_group_has_its_cell(result):
    content = plain(result)
    assert set(content["subsets"]) == {"everything", "helen/testset", "300w/ibug", "challenging", "odd"}
    for name, rows in result.subsets.items():
        for stage in ("coarse", "regions"):
            for group, errors in result.errors[stage].items():
                cell = content["subsets"][name][stage][group]
                wanted = summarise(errors[rows], 0.08)
                assert (cell["n"], cell["missed"], cell["excluded"]) == (wanted.n, wanted.missed, wanted.excluded)
                assert cell["nme"] == pytest.approx(wanted.nme, abs=1e-7)
                assert cell["auc@0.08"] == pytest.approx(wanted.auc, abs=1e-7)
    ends = intervals(result.errors["regions"]["68"][:, None], 0.08, resamples=1000, seed=0)
    np.testing.assert_allclose(content["nme_ci95"], ends.nme[:, 0], atol=1e-7)


def test_a_cell_does_not_depend_on_what_else_is_evaluated(result):
    alone = made_result({"68": result.errors["regions"]["68"][7:]}, folders=FOLDERS[7:])
    cell = result.cells["300w/ibug"]["regions"]["68"]
    for name, value in alone.cells["everything"]["regions"]["68"].items():
        np.testing.assert_allclose(cell[name], value, atol=1e-6, err_msg=name)


def test_faces_of_a_stage_group_and_subset(result):
    np.testing.assert_array_equal(result.faces(), result.errors["regions"]["68"])
    np.testing.assert_array_equal(result.faces("coarse", "mouth", "odd"), result.errors["coarse"]["mouth"][[1, 3, 9]])
    assert result.summary("coarse", "jaw", "300w/ibug") == summarise(result.errors["coarse"]["jaw"][7:], 0.08)
    for arguments, message in [
        (("oracle",), "stage: expected one of coarse, regions, got 'oracle'"),
        ((None, "51 points"), "points: expected one of 68, 51"),
        ((None, None, "common"), "subset: expected one of everything"),
    ]:
        with pytest.raises(InputError, match=message):
            result.faces(*arguments)


# ------------------------------------------------------------------------------------------ there and back


def test_what_is_read_again_says_the_same(result):
    back = again(result)
    assert back.names == result.names
    assert back.digests == result.digests
    assert (back.stage, back.points, back.threshold, back.stages, back.groups) == (
        result.stage,
        result.points,
        result.threshold,
        result.stages,
        result.groups,
    )
    assert list(back.subsets) == list(result.subsets)
    for name, rows in result.subsets.items():
        np.testing.assert_array_equal(back.subsets[name], rows, err_msg=name)
    for stage, groups in result.errors.items():
        for group, errors in groups.items():
            np.testing.assert_allclose(back.errors[stage][group], errors, rtol=0, atol=1e-7)
    for value in ("protocol", "model", "data", "calibration", "envelope"):
        assert getattr(back, value) == getattr(result, value)
    assert back.missed == result.missed
    assert back.excluded == result.excluded


def test_a_second_trip_changes_nothing(result):
    first = plain(again(result))
    assert plain(Result.from_dict(first)) == first
    assert first["faces"] == plain(result)["faces"]
    for name in ("nme", "auc@0.08", "fr@0.08"):
        assert first[name] == pytest.approx(result.to_dict()[name], abs=2e-7)


@pytest.mark.parametrize("value", [math.inf, math.nan, 0.0, 1e-12, 1e6])
def test_extreme_errors_and_faces_of_one_kind(value):
    result = made_result({"68": np.full(3, value)})
    content = plain(result)
    back = again(result)
    np.testing.assert_allclose(back.errors["regions"]["68"], value, atol=1e-7)
    assert content["n"] == 3
    if not math.isfinite(value):
        assert content["nme"] is None
        assert content["nme_ci95"] == [None, None]
        assert (content["missed"], content["excluded"]) == ((3, 0) if value > 0 else (0, 3))
    assert "\n" in result_text(back)


def test_a_result_of_no_face_at_a_subset():
    result = made_result({"68": np.array([0.1])}, members={"none": np.zeros(0, np.intp)})
    assert plain(result)["subsets"]["none"]["regions"]["68"]["nme"] is None
    assert len(again(result).faces(subset="none")) == 0
    result_text(result)


@pytest.mark.parametrize("rows", [[3, 8, 9], [9, 3, 8]])
def test_only_some_faces(result, rows):
    rows = np.array(rows)
    part = result.only(rows)
    assert part.missed == (result.names[8],)
    assert part.names == tuple(result.names[i] for i in rows)
    assert part.digests == tuple(result.digests[i] for i in rows)
    np.testing.assert_array_equal(part.faces(), result.faces()[rows])
    for name, members in result.subsets.items():
        assert {part.names[i] for i in part.subsets[name]} == {result.names[i] for i in members if i in rows}


# ------------------------------------------------------------------------------------------ files


@pytest.mark.parametrize("form", ["one line", "indented", "printed", "printed, no end", "blank lines"])
def test_files_and_what_was_printed_are_read(result, tmp_path, form):
    line = json.dumps(result.to_dict(), allow_nan=False)
    text = {
        "one line": line + "\n",
        "indented": json.dumps(result.to_dict(), indent=2),
        "printed": f"{result_text(result)}\n{line}\n",
        "printed, no end": f"{result_text(result)}\n{line}",
        "blank lines": f"\n\n{line}\n\n\n",
    }[form]
    path = tmp_path / "a.json"
    path.write_text(text)
    assert load_result(path).names == result.names
    assert load_result(str(path)).stage == "regions"


def refusal(path):
    with pytest.raises(DataError) as caught:
        load_result(path)
    assert "expected" in str(caught.value)
    assert str(path) in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"no json",
        b"[]",
        b"null",
        b"3",
        b"{}",
        b'{"kind": "latency", "format": 1}',
        b"\xff\xfe",
        b'{"kind": "evaluation"}',
        pytest.param(b"[" * 100_000, id="deep"),
    ],
)
def test_what_is_no_result_is_refused(tmp_path, content):
    path = tmp_path / "a.json"
    path.write_bytes(content)
    refusal(path)


def test_another_kind_and_format_are_named(result, tmp_path):
    path = tmp_path / "a.json"
    path.write_text(json.dumps({**result.to_dict(), "kind": "latency"}))
    assert "'latency'" in refusal(path)
    for version in (0, FORMAT_VERSION + 1, None, str(FORMAT_VERSION)):
        path.write_text(json.dumps({**result.to_dict(), "format": version}))
        assert f"expected format {FORMAT_VERSION}, got {version!r}" in refusal(path)


def test_no_file_and_a_folder(tmp_path):
    refusal(tmp_path / "missing.json")
    refusal(tmp_path)


@pytest.mark.parametrize("key", ["stage", "points", "protocol", "model", "data", "faces", "calibration"])
def test_a_missing_key_is_named(result, tmp_path, key):
    content = plain(result)
    del content[key]
    path = tmp_path / "a.json"
    path.write_text(json.dumps(content))
    assert f"'{key}'" in refusal(path)


DAMAGE = {
    "an unknown stage": lambda c: c.update(stage="all"),
    "an unknown group": lambda c: c.update(points="70"),
    "faces that are none": lambda c: c.update(faces=[]),
    "too few errors": lambda c: c["faces"]["nme"]["coarse"]["mouth"].pop(),
    "a negative error": lambda c: c["faces"]["nme"]["coarse"]["mouth"].__setitem__(1, -0.1),
    "an error that is text": lambda c: c["faces"]["nme"]["coarse"]["mouth"].__setitem__(1, "0.1"),
    "an error that is a list": lambda c: c["faces"]["nme"]["coarse"]["mouth"].__setitem__(1, [0.1]),
    "too few hashes": lambda c: c["faces"]["sha256"].pop(),
    "too many hashes": lambda c: c["faces"]["sha256"].append("00"),
    "too few folders": lambda c: c["faces"]["subset"].pop(),
    "too many folders": lambda c: c["faces"]["subset"].append("helen/testset"),
    "a member that is not there": lambda c: c["faces"]["members"]["odd"].append(N),
    "a member below zero": lambda c: c["faces"]["members"]["odd"].append(-1),
    "a member that is text": lambda c: c["faces"]["members"].update(odd=["x"]),
    "members that are a table": lambda c: c["faces"]["members"].update(odd=[[0, 1]]),
    "no errors": lambda c: c["faces"].update(nme={}),
    "errors that are a list": lambda c: c["faces"].update(nme=[1]),
    "groups that differ": lambda c: c["faces"]["nme"]["coarse"].pop("mouth"),
    "no threshold": lambda c: c["protocol"].pop("threshold"),
    "a threshold of zero": lambda c: c["protocol"].update(threshold=0),
    "a threshold that is text": lambda c: c["protocol"].update(threshold="low"),
    "no resamples": lambda c: c["protocol"].update(resamples=0),
    "a seed below zero": lambda c: c["protocol"].update(seed=-1),
    "a protocol that is text": lambda c: c.update(protocol="truth"),
    "a model that is text": lambda c: c.update(model="ibug68"),
    "a model without a name": lambda c: c["model"].pop("name"),
    "a model without a hash": lambda c: c["model"].pop("sha256"),
}


@pytest.mark.parametrize("what", DAMAGE)
def test_a_damaged_file_is_refused_when_it_is_read(result, tmp_path, what):
    content = plain(result)
    DAMAGE[what](content)
    path = tmp_path / "a.json"
    path.write_text(json.dumps(content))
    refusal(path)


def test_random_damage_is_refused_or_harmless(result, tmp_path):
    """Any value replaced by another type: refused, or a result whose figures and text can still be had."""
    text = json.dumps({k: v for k, v in plain(result).items() if k != "subsets"})
    rng = np.random.default_rng(0)
    places = [i for i, letter in enumerate(text) if letter in ",:"]
    path = tmp_path / "a.json"
    for place in rng.choice(places, 60, replace=False):
        for junk in ("null", '"x"', "[]", "{}", "1e999", "-3"):
            end = min((k for k in (text.find(c, place + 1) for c in ",]}") if k > 0), default=len(text))
            path.write_text(text[: place + 1] + junk + text[end:])
            try:
                back = load_result(path)
            except DataError:
                continue
            back.summary()
            assert len(back.digests) == len(back)


# ------------------------------------------------------------------------------------------ text


def test_the_table_says_the_protocol_and_percent(result):
    text = result_text(result)
    assert "made on 12 faces of helen/testset, 300w/ibug" in text
    assert "boxes truth, norm inter_ocular" in text
    (line,) = (line for line in text.splitlines() if line.startswith("everything") and " regions " in line)
    summary = result.summary()
    assert f" {100 * summary.nme:.2f} " in line
    assert f" {100 * summary.auc:.2f} " in line
    assert line.split()[-2:] == ["2", "1"]
    assert "challenging" in text
    assert "50.0 %" in text  # sigma
    assert "nan" not in text
    assert all(line == line.rstrip() for line in text.splitlines())


def test_numbers_of_json_have_no_more_digits_than_they_mean(result):
    for values in plain(result)["faces"]["nme"]["regions"].values():
        for value in values:
            assert value in (None, module._MISSED) or value == round(value, 7)
