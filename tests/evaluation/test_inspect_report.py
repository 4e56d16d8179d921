"""The page of an inspection: its numbers are the inspection's, it draws all of them, and it fetches nothing."""

from __future__ import annotations

import base64
import json
import re

import cv2
import numpy as np
import pytest
from browser_case import Opened, launched
from inspect_case import copy_of, exchange_everything, relabel, shift, write_data
from protocol_case import tiny_model

from cascade_kp.data.synthetic import synthetic_faces
from cascade_kp.errors import InputError
from cascade_kp.evaluation.inspect import inspect_data
from cascade_kp.evaluation.inspect_report import write_inspection
from cascade_kp.schemes import Scheme

SECTIONS = ["about", "suspects", "twice", "missing", "sizes", "mean", "correlation", "sheet"]


@pytest.fixture(scope="module")
def usual(tmp_path_factory):
    """A data set with one of everything that can be wrong. Never written to."""
    root = tmp_path_factory.mktemp("usual")
    train, test = write_data(root)
    copy_of(sorted(test.glob("*.pts"))[5], train, "zz_copy")
    copy_of(sorted(train.glob("*.pts"))[9], train, "zz_twin", mirror=False)
    relabel(train, 7, exchange_everything)
    relabel(train, 9, shift(30))
    for i in range(10, 14):
        relabel(train, i, lambda points: points.__setitem__(slice(36, 48), np.nan))
    relabel(test, 2, lambda points: points.__setitem__(8, [60, 140]))
    bad = sorted(test.glob("*.pts"))[3]
    bad.with_name("<img src=x onerror=alert(1)>.pts").write_text("broken")
    return inspect_data([train, test])


def written(folder, one, **options):
    path = folder / "out.html"
    write_inspection(one, path, **options)
    return path


def content_of(path):
    text = path.read_text(encoding="utf-8")
    return json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.DOTALL)[1])


# ---------------------------------------------------------------------------------------------- numbers


def test_the_numbers_are_those_of_the_inspection(tmp_path, usual):
    content = content_of(written(tmp_path, usual))
    values = usual.to_dict()
    for key in ("data", "missing", "outside", "duplicates", "exchanged", "keypoints", "correlation"):
        assert content[key] == json.loads(json.dumps(values[key])), key
    assert [face["name"] for face in content["suspects"]] == [one["name"] for one in values["suspects"][:36]]
    for bins in content["bins"]:
        np.testing.assert_allclose(np.sum(bins["shares"], axis=1), 1, atol=1e-3)
        assert len(bins["edges"]) == len(bins["shares"][0]) + 1
    assert len(content["twice"]) == min(24, len(values["duplicates"]["pairs"]))


def test_no_pixel_without_pictures_and_small_ones_with(tmp_path, usual):
    plain = written(tmp_path, usual, embed_images=False).read_text(encoding="utf-8")
    assert "data:image" not in plain
    assert "img-src" not in plain
    content = content_of(written(tmp_path, usual))
    pictures = [face["picture"]["url"] for face in (*content["suspects"], *content["sheet"]) if face["picture"]]
    pictures += [picture["url"] for pair in content["twice"] for picture in pair["pictures"]]
    assert len(pictures) > 60
    for url in pictures[::9]:
        data = base64.b64decode(url.removeprefix("data:image/jpeg;base64,"))
        assert max(cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR).shape) <= 242


def test_the_page_fetches_nothing(tmp_path, usual):
    text = written(tmp_path, usual).read_text(encoding="utf-8")
    outside = set(re.findall(r"(?:https?:)?//[\w.]+\.\w+", re.sub(r"base64,[\w+/=]+", "", text)))
    assert {url for url in outside if "www.w3.org" not in url} == set()
    assert "default-src &#x27;none&#x27;" in text
    assert not re.search(r"{{\w+}}", text)


def test_a_failed_write_keeps_the_old_page(tmp_path, usual, monkeypatch):
    path = tmp_path / "out.html"
    path.write_text("old", encoding="utf-8")

    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pathlib.Path.replace", fail)
    with pytest.raises(InputError, match="No space left"):
        write_inspection(usual, path)
    assert [one.name for one in tmp_path.iterdir()] == ["out.html"]
    assert path.read_text(encoding="utf-8") == "old"


# ---------------------------------------------------------------------------------------------- in a browser


@pytest.fixture(scope="module")
def browser():
    with launched() as one:
        yield one


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


@pytest.mark.parametrize(("scheme", "width"), [("light", 1280), ("dark", 1280), ("light", 390)])
def test_it_renders_every_section(browser, tmp_path, usual, scheme, width):
    opened = Opened(browser, written(tmp_path, usual), viewport={"width": width, "height": 900}, color_scheme=scheme)
    page = opened.page
    check_quiet(opened)
    ids = page.eval_on_selector_all("main > section", "all => all.map(e => e.id)")
    assert ids == SECTIONS
    assert page.locator("#suspect-cards .card").count() == 36
    assert page.locator("#pair-cards .card").count() == len(usual.pairs[:24])
    assert page.locator("#sheet-cards .card").count() == 48
    assert page.locator("#face [data-point]").count() == 68
    assert page.locator("#patterns tbody tr").count() == 2
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    natural = page.eval_on_selector_all(".pair img", "all => all.map(e => e.naturalWidth)")
    assert min(natural) > 0
    assert page.inner_text("#suspect-cards .card >> nth=0").startswith(f"{usual.suspects[0].score:.1f}")
    assert "left and right of the whole face are exchanged" in page.inner_text("#suspect-cards")
    assert "leak" in page.inner_text("#pair-cards .card >> nth=0")
    assert "onerror" in page.inner_text("#broken")
    page.close()


def test_the_matrix_is_painted_and_tells_its_values(browser, tmp_path, usual):
    opened = Opened(browser, written(tmp_path, usual, embed_images=False), viewport={"width": 1280, "height": 900})
    page = opened.page
    check_quiet(opened)
    painted = page.evaluate(
        "(() => { const c = document.querySelector('canvas.matrix'); const d = c.getContext('2d')"
        ".getImageData(0, 0, c.width, c.height).data; let n = 0; for (let i = 3; i < d.length; i += 4) n += d[i] > 40;"
        " return n / (d.length / 4); })()"
    )
    assert painted > 0.2
    page.locator("canvas.matrix").scroll_into_view_if_needed()
    page.locator("canvas.matrix").hover(position={"x": 2, "y": 2})
    assert page.inner_text("#tip").split("\n") == ["right jaw 1 and right jaw 1", "1.00"]
    assert page.locator("#pair-cards").count() == 0
    assert page.locator("#pairs tbody tr").count() == len(usual.pairs)
    page.close()


def test_a_model_and_one_split(browser, tmp_path, usual):
    model = tiny_model(tmp_path / "m.safetensors", regions=())
    one = inspect_data(usual.faces.parts[1], model=model, threads=1, backend="torch")
    opened = Opened(browser, written(tmp_path, one), viewport={"width": 900, "height": 900})
    check_quiet(opened)
    assert "what m says" in opened.page.inner_text("#suspects")
    assert "of the box" in opened.page.inner_text("#suspect-cards .card >> nth=0")
    opened.page.close()


@pytest.mark.parametrize("count", [1, 3])
def test_hardly_any_faces(browser, tmp_path, count):
    one = inspect_data([synthetic_faces(count, 0, size=(64, 64))])
    opened = Opened(browser, written(tmp_path, one), viewport={"width": 900, "height": 900})
    check_quiet(opened)
    assert "No face could be judged" in opened.page.inner_text("#suspects")
    opened.page.close()


def test_a_scheme_without_regions_edges_or_eyes(browser, tmp_path):
    scheme = Scheme("few", ("left_a", "right_a", "tip", "rare"))
    rng = np.random.default_rng(0)
    samples = []
    for _ in range(14):
        image = rng.integers(0, 255, (40, 40, 3)).astype(np.uint8)
        points = (np.array([[28, 12], [12, 12], [20, 25], [20, 30]]) + rng.normal(0, 1, (4, 2))).astype(np.float32)
        points[3] = np.nan
        samples.append({"image": image, "keypoints": points, "path": "", "subset": "."})
    one = inspect_data([samples], scheme=scheme)
    opened = Opened(browser, written(tmp_path, one), viewport={"width": 900, "height": 900})
    check_quiet(opened)
    assert opened.page.locator("#face [data-point]").count() == 3
    opened.page.close()
