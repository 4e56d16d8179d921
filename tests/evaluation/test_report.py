from __future__ import annotations

import base64
import dataclasses
import json
import re
from typing import Any

import cv2
import numpy as np
import pytest
from browser_case import Opened, launched
from evaluation_case import made_evaluation

from cascade_kp.errors import InputError
from cascade_kp.evaluation.perturb import STEPS, Perturbation
from cascade_kp.evaluation.report import write_report
from cascade_kp.metrics import ced, normaliser
from cascade_kp.schemes import Scheme, load_scheme

UNKNOWN = "\u2013"
HOSTILE = "</script><script>window.hacked=1</script><!--<img src=x onerror=window.hacked=2>&amp;\u2028'\"é漢"


def made_perturbation(n: int = 12, *, stages: tuple[str, ...] = ("coarse", "regions")) -> Perturbation:
    rng = np.random.default_rng(0)
    errors = {stage: rng.uniform(0.02, 0.1, (len(STEPS), n)) for stage in stages}
    return Perturbation(errors, tuple(f"f{i}" for i in range(n)), "68", "inter_ocular", 0.08, left_out=1)


def content_of(path) -> dict[str, Any]:
    text = path.read_text(encoding="utf-8")
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.DOTALL)
    assert found is not None

    def refuse(name):
        raise AssertionError(f"{name} is no JSON")

    return json.loads(found[1], parse_constant=refuse)


def written(tmp_path, *args, **options):
    path = tmp_path / "out.html"
    write_report(*args, path, **options)
    return path


# ---------------------------------------------------------------------------------------------- without a browser


def test_the_numbers_are_those_of_the_result(tmp_path):
    made = made_evaluation(40, missed=(3, 7), excluded=(5,))
    content = content_of(written(tmp_path, made))
    result = made.result.to_dict()
    assert content["cells"] == json.loads(json.dumps(result["subsets"]))
    assert content["headline"]["nme"] == result["nme"]
    assert content["missed"] == list(made.result.missed)
    assert len(content["missed"]) == 2
    assert content["excluded"] == list(made.result.excluded)
    for stage, groups in result["faces"]["nme"].items():
        for group, errors in groups.items():
            assert content["errors"][stage][group] == [-1 if error == "missed" else error for error in errors]


def test_bins_hold_every_face_that_can_be_binned(tmp_path):
    made = made_evaluation(60, missed=(3,), excluded=(5,))
    content = content_of(written(tmp_path, made))
    # The excluded face lacks its eye corners, so its yaw is not known; its size is, but it has no error.
    assert sum(one["n"] for one in content["yaw"]["bins"]) == 59
    assert content["yaw"]["unknown"] == 1
    assert sum(one["n"] for one in content["size"]["bins"]) == 59
    for part in ("yaw", "size"):
        assert sum(one["missed"] for one in content[part]["bins"]) == 1
        assert len(content[part]["edges"]) == len(content[part]["bins"]) + 1
    found = made.result.faces()
    weights = [one["n"] - one["missed"] for one in content["size"]["bins"]]
    means = [one["stages"]["regions"]["nme"] for one in content["size"]["bins"]]
    assert np.average(means, weights=weights) == pytest.approx(found[np.isfinite(found)].mean(), abs=1e-6)


def test_keypoint_errors_and_gains(tmp_path):
    made = made_evaluation(30, missed=(2,), excluded=(4,))
    content = content_of(written(tmp_path, made))
    errors = made.point_errors("regions")
    errors[~np.isfinite(errors)] = np.nan
    np.testing.assert_allclose(content["keypoints"]["errors"]["regions"], np.nanmean(errors, axis=0), atol=1e-6)
    gain = content["gains"]["coarse-regions"]["nose"]
    before, after = (made.result.errors[stage]["nose"] for stage in ("coarse", "regions"))
    both = np.isfinite(before) & np.isfinite(after)
    assert gain["gain"] == pytest.approx(before[both].mean() - after[both].mean(), abs=1e-6)
    assert gain["ci95"][0] < gain["gain"] < gain["ci95"][1]
    assert set(content["gains"]) == {"coarse-regions", "regions-oracle"}


def test_the_mean_shape_is_the_faces_shape_and_knows_the_norm(tmp_path):
    made = made_evaluation(30)
    content = content_of(written(tmp_path, made))
    shape = np.array(content["keypoints"]["shape"])
    face = made.truth[0].astype(float)
    face = (face - face.mean(axis=0)) / np.ptp(face, axis=0).max()
    np.testing.assert_allclose(shape - shape.mean(axis=0), face, atol=1e-3)
    unit = normaliser(shape[None], made.scheme, "inter_ocular")[0]
    assert content["keypoints"]["unit"] == pytest.approx(unit, abs=1e-4)


def test_faces_are_worst_and_best_in_order_and_missed_apart(tmp_path):
    made = made_evaluation(60, missed=tuple(range(15)))
    faces = content_of(written(tmp_path, made))["faces"]
    assert [len(faces[kind]) for kind in ("missed", "worst", "best")] == [12, 12, 12]
    assert faces["missed_all"] == 15
    errors = made.result.faces()
    order = sorted((error, name) for error, name in zip(errors, made.result.names, strict=True) if np.isfinite(error))
    assert [one["name"] for one in faces["best"]] == [name for _, name in order[:12]]
    assert [one["name"] for one in faces["worst"]] == [name for _, name in order[::-1][:12]]
    assert all(one["error"] == -1 and one["found"] == [None] * 68 for one in faces["missed"])
    few = content_of(written(tmp_path, made_evaluation(5)))["faces"]
    assert len(few["worst"]) + len(few["best"]) == 5


def test_a_wild_prediction_does_not_shrink_the_face_away(tmp_path):
    made = made_evaluation(3)
    made.keypoints["regions"][1, 5] = 1e6
    faces = content_of(written(tmp_path, made))["faces"]
    for card in (*faces["worst"], *faces["best"]):
        points = np.array(card["truth"])
        assert np.ptp(points, axis=0).max() > 60
        assert points.min() > 5
        assert points.max() < 235


def test_no_pixel_unless_asked_and_small_pictures_then(tmp_path):
    made = made_evaluation(8)
    plain = written(tmp_path, made).read_text(encoding="utf-8")
    assert "data:image" not in plain
    assert "base64," not in plain
    assert "img-src" not in plain
    path = written(tmp_path, made, embed_images=True)
    content = content_of(path)
    for card in (*content["faces"]["worst"], *content["faces"]["best"]):
        data = base64.b64decode(card["picture"]["url"].removeprefix("data:image/jpeg;base64,"))
        picture = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
        assert 60 < max(picture.shape[:2]) <= 242


def test_an_embedded_picture_lies_under_its_points(tmp_path):
    made = made_evaluation(1)
    image = np.zeros((400, 400, 3), np.uint8)
    x, y = (int(value) for value in made.truth[0, 30])
    image[y - 4 : y + 4, x - 4 : x + 4] = 255
    made.faces.parts[0][0] = {"image": image}
    card = content_of(written(tmp_path, made, embed_images=True))["faces"]["worst"][0]
    data = base64.b64decode(card["picture"]["url"].partition(",")[2])
    picture = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_GRAYSCALE).astype(float)
    left, top, width, height = card["picture"]["box"]
    rows, columns = np.mgrid[: picture.shape[0], : picture.shape[1]] + 0.5
    weight = np.where(picture > 60, picture, 0)
    seen = [
        (weight * columns).sum() / weight.sum() * width / picture.shape[1] + left,
        (weight * rows).sum() / weight.sum() * height / picture.shape[0] + top,
    ]
    scale = np.ptp(np.array(card["truth"]), axis=0).max() / np.ptp(made.truth[0], axis=0).max()
    offset = (np.array([x, y]) - made.truth[0, 30]) * scale
    np.testing.assert_allclose(seen, card["truth"][30] + offset, atol=1.0)


def test_a_bad_path_is_refused_and_nothing_is_left(tmp_path):
    made = made_evaluation(3)
    for path in (tmp_path / "no" / "out.html", tmp_path):
        with pytest.raises(InputError, match="expected a file that can be written"):
            write_report(made, path)
    assert list(tmp_path.iterdir()) == []


def test_a_failed_write_keeps_the_old_page(tmp_path, monkeypatch):
    path = tmp_path / "out.html"
    path.write_text("old", encoding="utf-8")

    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pathlib.Path.replace", fail)
    with pytest.raises(InputError, match="No space left"):
        write_report(made_evaluation(3), path)
    assert [one.name for one in tmp_path.iterdir()] == ["out.html"]
    assert path.read_text(encoding="utf-8") == "old"


def test_the_page_fetches_nothing(tmp_path):
    text = written(tmp_path, made_evaluation(3)).read_text(encoding="utf-8")
    outside = {url for url in re.findall(r"(?:https?:)?//[\w.]+\.\w+", text) if "www.w3.org" not in url}
    assert outside == set()
    assert "default-src &#x27;none&#x27;" in text
    assert not re.search(r"{{\w+}}", text)


@pytest.mark.slow
def test_two_thousand_faces(tmp_path):
    made = made_evaluation(2000, missed=(1, 2), excluded=(3,), folders=("a", "b", "c"))
    made = dataclasses.replace(made, result=dataclasses.replace(made.result, resamples=10_000))
    assert len(content_of(written(tmp_path, made, embed_images=True))["faces"]["worst"]) == 12


# ---------------------------------------------------------------------------------------------- in a browser


@pytest.fixture(scope="module")
def browser():
    with launched() as one:
        yield one


@pytest.fixture(scope="module")
def usual(tmp_path_factory):
    """An evaluation with all there is, and its page."""
    path = tmp_path_factory.mktemp("report") / "out.html"
    made = made_evaluation(60, missed=(3,), excluded=(5,))
    write_report(made, path, perturbation=made_perturbation())
    return made, path


@pytest.fixture
def shown(browser, usual):
    opened = Opened(browser, usual[1], viewport={"width": 1280, "height": 900}, color_scheme="light")
    yield opened
    opened.page.close()
    assert opened.errors == []
    assert opened.requests == []


def check_quiet(opened: Opened) -> None:
    assert opened.errors == []
    assert opened.requests == []
    assert opened.page.get_attribute("html", "data-ready") == "true"
    text = opened.page.inner_text("body")
    for bad in ("undefined", "NaN", "[object", "null", "Infinity"):
        assert bad not in text
    numbers = opened.page.evaluate(
        "[...document.querySelectorAll('svg *')].flatMap(e => [...e.attributes])"
        ".filter(a => a.name !== 'href' && /NaN|undefined|Infinity/.test(a.value)).map(a => a.ownerElement.outerHTML)"
    )
    assert numbers == []


def test_it_renders_every_section(shown):
    page = shown.page
    check_quiet(shown)
    assert page.locator("main > section").count() == 8
    drawn = page.evaluate("[...document.querySelectorAll('.chart svg')].map(e => e.querySelectorAll('*').length)")
    assert len(drawn) == 9  # CED, bars, face, yaw, size, two of the box, two of sigma
    assert min(drawn) > 10
    stages = page.eval_on_selector_all("#ced-chart path.curve", "all => all.map(e => e.dataset.stage)")
    assert stages == ["coarse", "regions", "oracle"]
    assert page.locator("#bars .bar").count() == 7 * 3
    assert page.locator("#face [data-point]").count() == 68
    assert page.locator("#yaw-chart .band").count() >= 1
    assert page.locator("#shift-chart .band").count() == 5
    assert page.locator("#scale-chart .band").count() == 5
    assert [page.locator(f"#{kind}-cards .card").count() for kind in ("missed", "worst", "best")] == [1, 12, 12]
    assert "No picture is embedded" in page.inner_text("#pictures-note")
    assert page.get_attribute("main dd[title^='sha256 ab']", "title") == "sha256 " + "ab" * 32


def tip_of(page) -> tuple[str, dict[str, str]]:
    first, *lines = page.eval_on_selector_all("#tip div", "all => all.map(e => e.textContent)")
    return first, dict(line.split(": ") for line in lines)


def check_reading(page, made, group, subset):
    error = float(page.get_attribute("#ced-chart .hit", "data-x"))
    first, shares = tip_of(page)
    assert first == f"error ≤ {100 * error:.2f} %"
    names = {"coarse": "stage one", "regions": "regions", "oracle": "oracle crops"}
    for stage, name in names.items():
        errors = np.array(made.result.faces(stage, group, subset))
        share = ced(np.round(errors, 7), [error])[0]
        count = int((~np.isnan(errors)).sum())
        assert shares[name] == f"{100 * share:.1f} % ({round(share * count)} of {count})"


def hover_ced(page, share: float) -> None:
    page.locator("#ced-chart").scroll_into_view_if_needed()
    box = page.locator("#ced-chart .hit").bounding_box()
    page.mouse.move(box["x"] + share * box["width"], box["y"] + box["height"] / 2)


def test_the_ced_tells_what_python_tells(shown, usual):
    page, made = shown.page, usual[0]
    for share in (0.05, 0.21, 0.333, 0.8):
        hover_ced(page, share)
        check_reading(page, made, "68", "everything")
    page.mouse.move(2, 2)
    assert page.locator("#tip").is_hidden()


def test_the_ceds_selectors_change_it(shown, usual):
    page, made = shown.page, usual[0]
    before = page.get_attribute("#ced-chart path[data-stage=regions]", "d")
    page.select_option("#ced-points", "nose")
    changed = page.get_attribute("#ced-chart path[data-stage=regions]", "d")
    assert changed != before
    hover_ced(page, 0.25)
    check_reading(page, made, "nose", "everything")
    page.select_option("#ced-subset", "made/second")
    assert page.get_attribute("#ced-chart path[data-stage=regions]", "d") != changed
    hover_ced(page, 0.25)
    check_reading(page, made, "nose", "made/second")
    assert f"{100 * made.result.summary('oracle', 'nose', 'made/second').nme:.2f}" in page.inner_text("#ced-table")
    page.select_option("#ced-limit", index=0)
    hover_ced(page, 0.5)
    assert tip_of(page)[0] == "error ≤ 2.00 %"
    check_reading(page, made, "nose", "made/second")


def test_the_ced_can_be_read_by_keyboard(shown, usual):
    page = shown.page
    page.focus("#ced-chart .hit")
    assert tip_of(page)[0] == "error ≤ 8.00 %"
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("PageDown")
    assert tip_of(page)[0] == "error ≤ 7.45 %"
    check_reading(page, usual[0], "68", "everything")
    assert page.get_attribute("#ced-chart .hit", "aria-valuetext").startswith("error ≤ 7.45 %, stage one: ")


def values(page, table: str, nth: int) -> list[str]:
    return page.eval_on_selector_all(
        f"#{table} tbody td:nth-child({nth})", "all => all.map(e => e.firstChild.textContent)"
    )


def test_the_table_sorts_by_number_both_ways(shown):
    page = shown.page
    head = page.locator("#results th").nth(3)
    assert head.get_attribute("aria-sort") == "none"
    before = [float(value) for value in values(page, "results", 4)]
    assert len(before) == 3 * 3 * 7
    head.locator("button").click()
    assert head.get_attribute("aria-sort") == "ascending"
    assert [float(value) for value in values(page, "results", 4)] == sorted(before)
    head.locator("button").focus()
    page.keyboard.press("Enter")
    assert head.get_attribute("aria-sort") == "descending"
    assert [float(value) for value in values(page, "results", 4)] == sorted(before, reverse=True)
    page.locator("#results th").nth(2).locator("button").click()
    assert head.get_attribute("aria-sort") == "none"
    names = page.locator("#results tbody td:nth-child(3)").all_inner_texts()
    assert names == sorted(names, key=lambda name: (not name[0].isdigit(), name))


def test_numbers_of_other_lengths_sort_as_numbers_and_unknown_comes_last(browser, tmp_path):
    made = made_evaluation(20, missed=tuple(range(0, 20, 2)))  # all of the first folder
    # As fractions 6 and 12, which text would sort the other way round.
    made.result.errors["coarse"]["nose"][1::2] = 12.0
    made.result.errors["coarse"]["mouth"][1::2] = 6.0
    opened = Opened(browser, written(tmp_path, made))
    button = opened.page.locator("#results th").nth(3).locator("button")
    for sign in (1, -1):
        button.click()
        found = values(opened.page, "results", 4)
        known = [float(value) for value in found if value != UNKNOWN]
        assert known == sorted(known, reverse=sign < 0)
        assert {600.0, 1200.0} <= set(known)
        assert found[len(known) :] == [UNKNOWN] * 21
    check_quiet(opened)
    opened.page.close()


def test_the_table_filters_and_stays_sorted(shown, usual):
    page, made = shown.page, usual[0]
    page.locator("#results th").nth(3).locator("button").click()
    page.select_option("#table-stage", "regions")
    page.select_option("#table-subset", "made/second")
    cells = made.result.cells["made/second"]["regions"]
    expected = sorted(f"{100 * cell['nme']:.2f}" for cell in cells.values())
    assert values(page, "results", 4) == expected
    page.select_option("#table-points", "nose")
    row = page.locator("#results tbody tr").inner_text().split("\t")
    low, high = cells["nose"]["nme_ci95"]
    assert row[:3] == ["made/second", "regions", "nose"]
    assert row[3] == f"{100 * cells['nose']['nme']:.2f}{100 * low:.2f}\u2013{100 * high:.2f}"
    assert row[6:] == ["30", "1", "1"]  # faces, missed, excluded


def test_hover_values_of_the_other_charts(shown, usual):
    page, made = shown.page, usual[0]
    page.hover("#face [data-point='30']")
    error = made.point_errors("regions")[:, 30]
    first, shares = tip_of(page)
    assert first == "nose_bridge_4"
    assert shares["regions"] == f"{100 * error[np.isfinite(error)].mean():.2f} %"
    page.hover("#bars .bar >> nth=1")
    lines = page.eval_on_selector_all("#tip div", "all => all.map(e => e.textContent)")
    assert lines[0] == "all 68 points: regions"
    assert lines[1].startswith(f"NME {100 * made.result.summary().nme:.2f} %, 95 %: ")
    assert lines[2] == "58 faces"
    page.hover("#shares-chart .band >> nth=0")
    assert "% within sigma" in page.inner_text("#tip")
    page.hover("#shift-chart .band >> nth=1")
    moved = made_perturbation().errors["regions"][1]
    assert f"regions: {100 * moved.mean():.2f} % (" in page.inner_text("#tip")
    assert f"FR@0.08 of regions: {100 * (moved > 0.08).mean():.2f} %" in page.inner_text("#tip")


def test_pictures_decode_when_they_are_asked_for(browser, usual, tmp_path):
    opened = Opened(browser, written(tmp_path, made_evaluation(9), embed_images=True))
    widths = opened.page.evaluate(
        "Promise.all([...document.querySelectorAll('.card image')].map(async (e) => {"
        " const one = new Image(); one.src = e.getAttribute('href'); await one.decode(); return one.naturalWidth; }))"
    )
    assert len(widths) == 9
    assert min(widths) > 50
    assert "keep the page to yourself" in opened.page.inner_text("#pictures-note")
    check_quiet(opened)
    opened.page.close()
    plain = Opened(browser, usual[1])
    assert plain.page.locator("image, img").count() == 0
    plain.page.close()


def test_the_dark_scheme(browser, usual):
    def colours(scheme):
        opened = Opened(browser, usual[1], color_scheme=scheme)
        found = opened.page.evaluate(
            "[getComputedStyle(document.body).backgroundColor, getComputedStyle(document.body).color,"
            " getComputedStyle(document.querySelector('#ced-chart path.curve')).stroke]"
        )
        check_quiet(opened)
        opened.page.close()
        return [sum(map(int, re.findall(r"\d+", colour)[:3])) for colour in found]

    light, dark = colours("light"), colours("dark")
    assert light[0] > 700 > light[1]
    assert dark[0] < 120 < dark[1]
    assert dark[2] > light[2]


@pytest.mark.parametrize("width", [320, 420, 768])
def test_nothing_sticks_out_of_a_narrow_page(browser, usual, width):
    opened = Opened(browser, usual[1], viewport={"width": width, "height": 800})
    assert opened.page.evaluate("document.documentElement.scrollWidth") <= width
    beyond = opened.page.evaluate(
        "[...document.querySelectorAll('.chart svg, select, figcaption, .tile')]"
        ".filter(e => e.getBoundingClientRect().right > document.documentElement.clientWidth + 1).map(e => e.outerHTML)"
    )
    assert beyond == []
    opened.page.close()


def test_charts_follow_the_window(shown):
    page = shown.page
    before = page.locator("#ced-chart svg").bounding_box()["width"]
    page.set_viewport_size({"width": 500, "height": 800})
    page.wait_for_function("document.querySelector('#ced-chart svg').clientWidth < 500")
    assert page.locator("#ced-chart svg").bounding_box()["width"] < before
    size = page.evaluate("[document.querySelector('#ced-chart svg').viewBox.baseVal.width]")[0]
    assert size == pytest.approx(page.locator("#ced-chart svg").bounding_box()["width"], abs=1)


def test_print_shows_all_of_a_table_and_no_controls(shown):
    page = shown.page
    page.emulate_media(media="print")
    assert page.locator(".controls").first.is_hidden()
    assert page.locator("nav").is_hidden()
    assert page.evaluate("(e => e.scrollHeight <= e.clientHeight + 1)(document.querySelector('.scroll.tall'))")


def test_every_chart_and_control_has_a_name(shown):
    page = shown.page
    unnamed = page.evaluate(
        "[...document.querySelectorAll('svg[role], [role=slider], [role=region]')]"
        ".filter(e => !e.getAttribute('aria-label')).map(e => e.outerHTML.slice(0, 200))"
    )
    assert unnamed == []
    assert page.evaluate("[...document.querySelectorAll('select')].every(e => e.labels.length === 1)")


def test_a_hostile_name_is_text_and_nothing_more(browser, tmp_path):
    names = [f"{HOSTILE}{i}" for i in range(8)]
    made = made_evaluation(8, name=HOSTILE, names=names, folders=(HOSTILE, "{{script}}"), missed=(1,), excluded=(2,))
    moved = dataclasses.replace(made_perturbation(), names=(HOSTILE,) * 12)
    opened = Opened(browser, written(tmp_path, made, perturbation=moved, embed_images=True))
    page = opened.page
    assert page.evaluate("window.hacked") is None
    assert page.locator("img, script[src]").count() == 0
    assert page.locator("script").count() == 2
    assert page.text_content("#title") == f"{HOSTILE} on {HOSTILE}, {{{{script}}}}"
    assert page.title().split() == f"{HOSTILE} on {HOSTILE}, {{{{script}}}}".split()
    assert page.text_content("#missed-faces li") == names[1]
    assert set(page.locator(".card .name").all_text_contents()) == set(names) - {names[2]}
    page.select_option("#ced-subset", HOSTILE)
    check_quiet(opened)
    page.close()


def test_a_name_that_is_no_utf8(browser, tmp_path):
    made = made_evaluation(3, name="caf\udce9", names=["a\udce9", "b", "c"])
    opened = Opened(browser, written(tmp_path, made, title="mine \udce9"))
    assert opened.page.text_content("#title") == "mine ?"
    check_quiet(opened)
    opened.page.close()


def plain_scheme() -> Scheme:
    """Without regions, without names that tell a yaw."""
    return Scheme(name="own", keypoints=("a", "b", "c", "d", "e"), regions={}, flip=(0, 1, 2, 3, 4), edges=((0, 1),))


CASES = {
    "one stage": lambda: made_evaluation(12, stages=("coarse",)),
    "no oracle": lambda: made_evaluation(12, stages=("coarse", "regions")),
    "both ways to place regions": lambda: made_evaluation(12, stages=("coarse", "regions", "points", "oracle")),
    "kaggle15": lambda: made_evaluation(12, scheme=load_scheme("kaggle15"), missed=(0,)),
    "no regions, no yaw": lambda: made_evaluation(12, scheme=plain_scheme(), stages=("coarse",), norm="box"),
    "none found": lambda: made_evaluation(5, missed=range(5)),
    "none to be scored": lambda: made_evaluation(5, excluded=range(5)),
    "one face": lambda: made_evaluation(1, folders=("only",)),
    "no face": lambda: made_evaluation(0),
    "no sigma": lambda: made_evaluation(5, sigma=False),
}


@pytest.mark.parametrize("case", list(CASES))
def test_unusual_evaluations(browser, tmp_path, case):
    made = CASES[case]()
    path = written(tmp_path, made, embed_images=True)
    content_of(path)
    opened = Opened(browser, path)
    check_quiet(opened)
    assert opened.page.locator("#ced-chart path.curve").count() == len(made.result.stages)
    opened.page.locator("#results th").nth(3).locator("button").click()
    hover_ced(opened.page, 0.5)
    check_quiet(opened)
    text = opened.page.inner_text("main")
    assert ("Not shown: yaw: expected a scheme with the points" in text) == (case == "no regions, no yaw")
    assert ("one stage only" in text) == (len(made.result.stages) == 1)
    opened.page.close()


@pytest.mark.parametrize("missing", ["a point everywhere", "most of a face", "a whole face"])
def test_missing_labels(browser, tmp_path, missing):
    made = made_evaluation(10)
    if missing == "a point everywhere":
        made.truth[:, 8] = np.nan
    elif missing == "most of a face":
        made.truth[4, 1:] = np.nan
    else:
        made.truth[4] = np.nan
    result = made.result
    for stage, groups in result.errors.items():
        found = made.point_errors(stage)
        for group, members in made.groups.items():
            known = ~np.isnan(found[:, list(members)])
            sums = np.where(known, found[:, list(members)], 0).sum(axis=1)
            groups[group][:] = np.where(known.any(axis=1), sums / np.maximum(known.sum(axis=1), 1), np.nan)
    opened = Opened(browser, written(tmp_path, made, embed_images=True))
    check_quiet(opened)
    assert opened.page.locator("#face [data-point]").count() == (67 if missing == "a point everywhere" else 68)
    opened.page.close()
