"""Comparing two results: real changes are found and named, chance is not, and unlike things are refused."""

from __future__ import annotations

import dataclasses
import json
import math

import numpy as np
import pytest
from protocol_case import made_errors, made_result

from cascade_kp.errors import InputError
from cascade_kp.evaluation.compare import compare
from cascade_kp.evaluation.result import Result
from cascade_kp.evaluation.text import comparison_text
from cascade_kp.metrics import summarise
from cascade_kp.schemes import load_scheme

IBUG = load_scheme("ibug68")
N = 200


def changed(errors, factors, seed=None, noise=0.03):
    """Errors of another model: regions multiplied by factors, all faces by chance; wholes recomputed."""
    rng = np.random.default_rng(seed)
    n = len(errors["68"])
    points = np.empty((n, 68))
    for name, members in IBUG.regions.items():
        # Of mean one: the models are equally good on average.
        chance = rng.lognormal(-(noise**2) / 2, noise, n) if seed is not None else np.ones(n)
        points[:, list(members)] = (errors[name] * factors.get(name, 1.0) * chance)[:, None]
    whole = {"68": points.mean(axis=1), "51": points[:, 17:].mean(axis=1)}
    return whole | {name: points[:, members[0]] for name, members in IBUG.regions.items()}


@pytest.fixture(scope="module")
def errors():
    return made_errors(N, 1)


@pytest.fixture(scope="module")
def before(errors):
    return made_result(errors, folders=["helen/testset"] * 120 + ["300w/ibug"] * 80)


def like(before, errors, **changes):
    return dataclasses.replace(before, errors={"regions": errors}, **changes)


def named(changes):
    return {(c.subset, c.points, c.metric) for c in changes}


# ------------------------------------------------------------------------------------------ verdicts


def test_the_same_is_the_same(before):
    got = compare(before, before, resamples=1000)
    assert (got.worse, got.better, got.n) == ((), (), N)
    assert len(got.changes) == 3 * (len(before.groups) + 2)
    for change in got.changes:
        assert change.difference == change.low == change.high == 0
        assert change.p == 1
        assert change.verdict == "same"


def test_a_file_and_the_result_it_is_of_are_the_same(before):
    got = compare(before, Result.from_dict(json.loads(json.dumps(before.to_dict()))), resamples=1000)
    assert got.worse == got.better == ()


def test_a_mouth_made_worse_is_named(before, errors):
    got = compare(before, like(before, changed(errors, {"mouth": 1.05}, seed=3)))
    worse = named(got.worse)
    for subset in ("everything", "helen/testset", "300w/ibug"):
        assert (subset, "mouth", "nme") in worse
    for region in ("jaw", "nose", "left_eye", "right_eye"):
        assert not any(points == region for _, points, _ in worse)
    assert got.better == ()
    change = next(c for c in got.worse if (c.subset, c.points) == ("everything", "mouth"))
    assert change.after / change.before == pytest.approx(1.05, abs=0.01)
    assert 0 < change.low < change.difference < change.high
    assert change.p < 0.05
    text = comparison_text(got, before, before)
    last = text.splitlines()[-1]
    assert last.startswith("worse: ")
    assert "NME of mouth" in last
    assert "NME of mouth on 300w/ibug" in last
    assert "better: nothing" in text


def test_a_mouth_made_better_is_no_loss(before, errors):
    got = compare(before, like(before, changed(errors, {"mouth": 0.95}, seed=3)))
    assert got.worse == ()
    assert ("everything", "mouth", "nme") in named(got.better)
    assert comparison_text(got, before, before).splitlines()[-1] == "worse: nothing"


def test_a_gain_there_pays_for_no_loss_here(before, errors):
    got = compare(before, like(before, changed(errors, {"mouth": 1.1, "nose": 0.8}, seed=3)))
    assert ("everything", "mouth", "nme") in named(got.worse)
    assert ("everything", "nose", "nme") in named(got.better)


def test_a_loss_on_one_folder_alone_is_found(before, errors):
    slow = {name: values.copy() for name, values in errors.items()}
    for name, values in changed(errors, {"mouth": 1.1}, seed=3).items():
        slow[name][120:] = values[120:]
    got = compare(before, like(before, slow))
    assert ("300w/ibug", "mouth", "nme") in named(got.worse)
    assert "helen/testset" not in {c.subset for c in got.worse}


def test_worse_one_way_is_better_the_other_way(before, errors):
    other = like(before, changed(errors, {"mouth": 1.05, "nose": 0.9}, seed=3))
    there, back = compare(before, other, resamples=2000), compare(other, before, resamples=2000)
    assert named(there.worse) == named(back.better)
    assert named(there.better) == named(back.worse)
    for one, two in zip(there.changes, back.changes, strict=True):
        assert one.difference == pytest.approx(-two.difference)
        assert (one.low, one.high) == pytest.approx((-two.high, -two.low), abs=1e-6)


def test_faces_in_another_order_are_the_same_faces(before, errors):
    worse = like(before, changed(errors, {"mouth": 1.05}, seed=3))
    order = np.random.default_rng(0).permutation(N)
    mixed = worse.only(order)
    mixed = dataclasses.replace(mixed, names=tuple(f"elsewhere/{name}" for name in mixed.names))
    one, two = compare(before, worse, resamples=1000), compare(before, mixed, resamples=1000)
    assert one.changes == two.changes
    assert compare(before, before.only(order), resamples=1000).worse == ()


def test_differences_too_small_to_show_do_not_count(before, errors):
    other = like(before, {name: values + 4e-5 for name, values in errors.items()})
    got = compare(before, other)
    assert not any(metric == "nme" for _, _, metric in named(got.worse))
    assert all(c.p < 0.05 for c in got.changes if c.metric == "nme")  # sure, but small
    strict = compare(before, other, tolerance=0.0)
    assert {points for _, points, metric in named(strict.worse) if metric == "nme"} == set(errors)


def test_a_face_that_is_missed_counts_though_no_error_is_known(before, errors):
    lost = {name: values.copy() for name, values in errors.items()}
    for values in lost.values():
        values[::10] = math.inf
    got = compare(before, like(before, lost))
    worse = named(got.worse)
    assert ("everything", "68", "auc") in worse
    assert ("everything", "68", "fr") in worse
    assert not any(metric == "nme" for _, _, metric in worse)  # the others are as they were
    assert named(compare(like(before, lost), before).better) == worse


def test_a_hard_face_found_at_last_is_no_loss(before, errors):
    """Its error is large, and a mean over found faces would be worse for it."""
    lost, found = ({name: values.copy() for name, values in errors.items()} for _ in range(2))
    for values in lost.values():
        values[::13] = math.inf
    for values in found.values():
        values[::13] = 0.079
    got = compare(like(before, lost), like(before, found))
    assert got.worse == ()
    assert ("everything", "68", "fr") in named(got.better)


def test_excluded_faces_take_no_part(before, errors):
    holed = {name: values.copy() for name, values in errors.items()}
    for values in holed.values():
        values[::5] = math.nan
    one = compare(like(before, holed), like(before, changed(holed, {"mouth": 1.05}, seed=3)))
    change = next(c for c in one.changes if (c.subset, c.points, c.metric) == ("everything", "mouth", "nme"))
    assert change.before == pytest.approx(np.nanmean(holed["mouth"]))
    assert change.verdict == "worse"


def test_nothing_that_both_can_score(before, errors):
    none = {name: np.full(N, math.nan) for name in errors}
    got = compare(like(before, none), like(before, none), resamples=1000)
    assert got.worse == ()
    json.dumps(got.to_dict(), allow_nan=False)
    lost = {name: np.full(N, math.inf) for name in errors}
    got = compare(before, like(before, lost), resamples=1000)
    assert ("everything", "68", "fr") in named(got.worse)
    json.dumps(got.to_dict(), allow_nan=False)


def test_before_and_after_are_those_of_the_results(before, errors):
    after = like(before, changed(errors, {"mouth": 1.3}, seed=5))
    for change in compare(before, after, resamples=1000).changes:
        one, two = (summarise(r.faces("regions", change.points, change.subset)) for r in (before, after))
        assert change.before == pytest.approx(getattr(one, change.metric))
        assert change.after == pytest.approx(getattr(two, change.metric))


def test_one_folder_is_compared_once(errors):
    alone = made_result(errors)
    assert {c.subset for c in compare(alone, alone, resamples=1000).changes} == {"everything"}


def test_a_seed_gives_one_answer(before, errors):
    other = like(before, changed(errors, {}, seed=3))
    one, two, three = (compare(before, other, resamples=1000, seed=seed) for seed in (0, 0, 1))
    assert one.changes == two.changes != three.changes


def test_to_dict_is_plain(before, errors):
    got = compare(before, like(before, changed(errors, {"mouth": 1.05}, seed=3)), resamples=1000)
    content = json.loads(json.dumps(got.to_dict(), allow_nan=False))
    assert (content["n"], content["worse"], content["better"]) == (N, len(got.worse), 0)
    row = content["changes"][0]
    assert row["difference"] == pytest.approx(row["after"] - row["before"])
    assert {"subset", "stage", "points", "metric", "before", "after", "low", "high", "p", "verdict"} <= row.keys()


# ------------------------------------------------------------------------------------------ chance


def alarms(seeds, folders, noise, resamples):
    """In how many pairs of equally good models something is called worse or better."""
    found = 0
    for seed in range(seeds):
        errors = made_errors(len(folders), seed)
        before = made_result(errors, folders=folders)
        after = like(before, changed(errors, {}, seed + 1000, noise))
        got = compare(before, after, resamples=resamples, seed=seed)
        found += bool(got.worse or got.better)
    return found


@pytest.mark.parametrize("noise", [0.03, 0.3])
def test_chance_is_seldom_called_a_change(noise):
    # 5 % are promised: of 60 pairs, more than 8 come once in 400 runs. So many resamples that p could be small.
    assert alarms(60, ["a/b"] * 120, noise, 2000) <= 8


@pytest.mark.slow
def test_chance_is_seldom_called_a_change_on_any_of_many_subsets():
    folders = [f"a/{name}" for name in "bbbbbccd" for _ in range(20)]
    assert alarms(60, folders, 0.1, 4000) <= 8


@pytest.mark.parametrize("small", [1, 2, 3, 5])
def test_a_handful_of_faces_proves_nothing(small):
    """All of three faces are worse once in eight by chance alone, and then every resample says so."""
    assert alarms(20, ["a/b"] * 30 + ["a/c"] * small, 0.1, 4000) <= 4


@pytest.mark.parametrize("folders", [1, 3, 8])
def test_a_large_loss_is_found_or_the_resamples_are_refused(folders):
    """Many subsets make many p-values, and adjusted for them none could be small: then it must be said."""
    errors = made_errors(N, 1)
    before = made_result(errors, folders=[f"a/{i % folders}" for i in range(N)])
    try:
        got = compare(before, like(before, changed(errors, {"mouth": 1.5}, seed=3)), resamples=1000)
    except InputError as error:
        assert "resamples" in str(error)  # noqa: PT017 (either way is right)
    else:
        assert ("everything", "mouth", "nme") in named(got.worse)


def test_a_single_face_is_no_evidence(errors):
    one = made_result({name: values[:1] for name, values in errors.items()})
    two = like(one, {name: values[:1] * 1.2 for name, values in errors.items()})
    assert compare(one, two).worse == ()


def test_a_real_change_is_seldom_overlooked():
    found = 0
    for seed in range(20):
        errors = made_errors(N, seed)
        before = made_result(errors)
        got = compare(before, like(before, changed(errors, {"mouth": 1.02}, seed + 50, 0.05)), resamples=1000)
        found += ("everything", "mouth", "nme") in named(got.worse)
    assert found >= 17


# ------------------------------------------------------------------------------------------ stages


@pytest.fixture(scope="module")
def staged(errors):
    """Three stages; the headline is the regions'."""
    stages = {"coarse": changed(errors, {"mouth": 1.2}), "regions": errors, "oracle": changed(errors, {"mouth": 0.9})}
    return made_result(errors, stages=stages)


def test_the_first_results_headline_stage_is_compared(staged, before):
    assert {c.stage for c in compare(staged, staged, resamples=1000).changes} == {"regions"}
    assert {c.stage for c in compare(staged, staged, stage="oracle", resamples=1000).changes} == {"oracle"}
    assert before.stages == ("regions",)


def test_all_stages_that_both_have(staged, errors):
    other = made_result(errors, stages={"regions": errors, "oracle": errors, "points": errors})
    got = compare(staged, other, stage="all")
    assert {c.stage for c in got.changes} == {"regions", "oracle"}
    assert {c.stage for c in got.worse} == {"oracle"}


def test_a_stage_that_one_has_not(staged, before):
    for stage in ("coarse", "nothing"):
        with pytest.raises(InputError, match=f"stage: expected one that both .*regions.* got '{stage}'"):
            compare(staged, before, stage=stage)
    coarse = made_result(staged.errors["coarse"], stage="coarse")
    with pytest.raises(InputError, match=r"there is none.* got 'regions'.*the second coarse"):
        compare(before, coarse)


# ------------------------------------------------------------------------------------------ refused


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("norm", "inter_pupil"),
        ("boxes", "detector"),
        ("threshold", 0.1),
        ("scheme", "ibug51"),
        ("found_iou", 0.3),
        ("mat_box", "bb_ground_truth"),
    ],
)
def test_other_conditions_are_refused_and_named(before, name, value):
    other = dataclasses.replace(before, protocol={**before.protocol, name: value})
    for pair in ((before, other), (other, before)):
        with pytest.raises(InputError, match="same conditions") as caught:
            compare(*pair)
        assert name in str(caught.value)
        assert repr(value) in str(caught.value)
        assert repr(before.protocol.get(name)) in str(caught.value)


def test_jitter_of_another_seed_moves_other_boxes(before):
    def jitter(seed, shift=0.05):
        return dataclasses.replace(
            before, protocol={**before.protocol, "boxes": "jitter", "jitter_shift": shift, "seed": seed}
        )

    compare(jitter(1), jitter(1), resamples=1000)
    for other, what in ((jitter(2), "seed"), (jitter(1, 0.1), "jitter_shift")):
        with pytest.raises(InputError, match=what):
            compare(jitter(1), other)
    # Otherwise a seed is only that of the intervals.
    compare(before, dataclasses.replace(before, protocol={**before.protocol, "seed": 7}), resamples=1000)


def test_box_files_are_known_by_their_content(before):
    def supplied(*files):
        listed = [{"name": name, "sha256": digest} for name, digest in files]
        return dataclasses.replace(before, protocol={**before.protocol, "boxes": "supplied", "box_files": listed})

    compare(supplied(("a.mat", "11")), supplied(("b.mat", "11")), resamples=1000)
    with pytest.raises(InputError, match="box_files"):
        compare(supplied(("a.mat", "11")), supplied(("a.mat", "22")))


def test_other_faces_are_refused_and_named(before, errors):
    fewer = before.only(np.arange(5, N))
    with pytest.raises(InputError) as caught:
        compare(before, fewer)
    message = str(caught.value)
    assert "same faces" in message
    assert "got 200 and 195" in message
    assert "5 are only in the first" in message
    assert before.names[0] in message
    with pytest.raises(InputError, match="5 are only in the second"):
        compare(fewer, before)
    other = made_result(errors, digests=tuple(f"{i + 10**6:016x}" for i in range(N)), names=tuple(map(str, range(N))))
    with pytest.raises(InputError, match=r"200 are only in the first.*200 are only in the second"):
        compare(before, other)


def test_faces_with_other_labels_are_told_as_such(before):
    digests = ("f" * 16, *before.digests[1:])
    with pytest.raises(InputError, match="1 have another picture or other labels") as caught:
        compare(before, dataclasses.replace(before, digests=digests))
    assert before.names[0] in str(caught.value)


def test_a_face_that_one_has_twice(before):
    """Copies of a picture under two names are two faces, in both results or in none."""
    twice = before.only(np.array([*range(N), 0]))
    twice = dataclasses.replace(twice, names=(*twice.names[:-1], "copy/of"))
    for pair in ((before, twice), (twice, before)):
        with pytest.raises(InputError, match=r"200.*201|201.*200"):
            compare(*pair)
    assert compare(twice, twice, resamples=1000).worse == ()


def test_copies_of_a_face_are_paired_by_name(before):
    """Under moved boxes two copies of a picture have errors of their own."""
    digests = (before.digests[1], *before.digests[1:])
    twins = dataclasses.replace(before, digests=digests)
    got = compare(twins, twins, resamples=1000)
    assert all(change.difference == 0 for change in got.changes)
    assert all(c.difference == 0 for c in compare(twins, twins.only(np.arange(N)[::-1]), resamples=1000).changes)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"tolerance": -1e-9}, "tolerance"),
        ({"tolerance": math.nan}, "tolerance"),
        ({"tolerance": math.inf}, "tolerance"),
        ({"resamples": 0}, "resamples"),
        ({"resamples": 1e4}, "resamples"),
        ({"resamples": True}, "resamples"),
    ],
)
def test_settings_that_make_no_sense(before, settings, message):
    with pytest.raises(InputError, match=message):
        compare(before, before, **settings)


@pytest.mark.parametrize("lost", [8, 20])
def test_faces_that_are_no_longer_found_are_a_loss(lost):
    """They are in no mean over found faces, and few among many statistics."""
    folders = [f"a/{i % 3}" for i in range(500)]
    errors = made_errors(500, 4)
    before = made_result(errors, folders=folders)
    fewer = {group: values.copy() for group, values in errors.items()}
    for values in fewer.values():
        values[np.arange(lost) * 17] = math.inf
    worse = compare(before, like(before, fewer)).worse
    assert ("everything", "68", "fr") in named(worse)


def test_other_excluded_faces_are_refused(before, errors):
    holed = {group: values.copy() for group, values in errors.items()}
    for values in holed.values():
        values[:3] = math.nan
    with pytest.raises(InputError, match="the same faces to be excluded in both, but 3 are in one only"):
        compare(before, like(before, holed))
