"""The page without a server: its files, and its numbers in a real browser against the library's."""

from __future__ import annotations

import functools
import json
import shutil
import threading
from contextlib import contextmanager
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import cv2
import numpy as np
import pytest
import skimage.data
from browser_case import Opened, launched
from PIL import Image

from cascade_kp.apps.page import example_picture
from cascade_kp.apps.static_demo import ORT_FILES, write_static
from cascade_kp.errors import InputError, ModelError
from cascade_kp.pipeline import Pipeline

MODEL = "ibug68-fast"  # the smallest


class Quiet(SimpleHTTPRequestHandler):
    extensions_map = {**SimpleHTTPRequestHandler.extensions_map, ".mjs": "text/javascript", ".wasm": "application/wasm"}  # noqa: RUF012

    def end_headers(self):
        self.send_header("Access-Control-Allow-Origin", "*")  # as networks of copies do
        super().end_headers()

    def log_message(self, *_):
        pass


@contextmanager
def hosted(folder):
    """A web server that knows nothing but files."""
    with ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=folder)) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/"
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture(scope="module")
def site(ort, tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    written = write_static(folder, [MODEL, "kaggle15"], ort=ort)
    assert sorted(written) == sorted(path for path in folder.rglob("*") if path.is_file())
    return folder


@pytest.fixture(scope="module")
def browser():
    with launched() as running:
        yield running


def opened(browser, url):
    shown = Opened(browser, url)
    shown.page.wait_for_selector("body[data-ready]")
    return shown


def settle(shown):
    shown.page.wait_for_selector("body:not([aria-busy])", timeout=120_000)
    assert not shown.page.is_visible("#message"), shown.page.inner_text("#message")


def faces(shown):
    with shown.page.expect_download() as waiting:
        shown.page.click("#json")
    return json.loads(Path(waiting.value.path()).read_text("utf-8"))["faces"]


def close_enough(said, face):
    side = float((face.box[2:] - face.box[:2]).max())
    for key in ("keypoints", "coarse", "sigma", "box"):
        # Files have three decimals.
        assert np.abs(np.array(said[key]) - getattr(face, key)).max() < 0.0005 * side + 0.0006, key
    assert said["score"] == pytest.approx(face.score, abs=2e-3)


def test_a_browser_alone_says_what_the_library_says(browser, site, tmp_path):
    picture = tmp_path / "astronaut.png"
    picture.write_bytes(example_picture())
    with hosted(site) as url:
        shown = opened(browser, url)
        shown.page.set_input_files("#file", picture)
        settle(shown)
        assert shown.page.inner_text("#status") == "1 face, 68 keypoints (512 x 512 px)"
        (face,) = Pipeline(MODEL, threads=1)(picture)
        close_enough(faces(shown)[0], face)
        for model in (MODEL, "kaggle15"):
            shown.page.select_option("#model", model)
            settle(shown)
            pipe = Pipeline(model, threads=1)
            for box in ([178, 85, 275, 182], [150, 60, 300, 220], [-20, -30, 300.5, 250.25]):
                for name, value in zip(("x0", "y0", "x1", "y1"), box, strict=True):
                    shown.page.fill(f"#boxes [name={name}]", str(value))
                shown.page.click("#boxes button >> nth=0")
                settle(shown)
                close_enough(faces(shown)[0], pipe(picture, boxes=[box])[0])
        shown.page.select_option("#stage", "coarse")
        settle(shown)
        close_enough(faces(shown)[0], Pipeline(model, stage="coarse", threads=1)(picture, boxes=[box])[0])
        assert "the cascade" in shown.page.inner_text("#timing")
        assert shown.errors == []
        assert [one for one in shown.requests if not one.startswith(url)] == []
        shown.page.close()


def crowd():
    """The astronaut four times, twice turned, on coins, whose heads the detector takes for faces."""
    face, canvas = skimage.data.astronaut(), cv2.resize(skimage.data.coins(), (1280, 960))
    canvas = np.repeat(canvas[:, :, None], 3, axis=2)
    for x, y, zoom, roll in [(220, 230, 0.8, 0), (840, 220, 0.9, 50), (300, 700, 0.7, -35), (960, 720, 0.8, -15)]:
        matrix = cv2.getRotationMatrix2D((226, 133), -roll, zoom)
        matrix[:, 2] += [x - 226, y - 133]
        mask = cv2.ellipse(np.zeros(face.shape[:2], np.uint8), (226, 133), (90, 110), 0, 0, 360, 255, -1)
        shown, where = (cv2.warpAffine(one, matrix, (1280, 960)) for one in (face, mask))
        canvas[where > 127] = shown[where > 127]
    return canvas


def test_a_browser_alone_finds_the_faces_that_the_library_finds(browser, site, tmp_path):
    picture = tmp_path / "crowd.png"
    Image.fromarray(crowd()).save(picture)
    with hosted(site) as url:
        shown = opened(browser, url)
        for model in (MODEL, "kaggle15"):
            shown.page.select_option("#model", model)
            shown.page.set_input_files("#file", picture)
            settle(shown)
            pipe = Pipeline(model, threads=1)
            expected, candidates = pipe(picture), pipe._begun(picture, None).found
            assert len(candidates) > len(expected) >= 3  # most of them are for the cascade to refuse
            assert np.abs(candidates.rolls).max() > 0.5
            said = faces(shown)
            assert len(said) == len(expected)
            for one, face in zip(said, expected, strict=True):
                close_enough(one, face)
        assert shown.errors == []
        shown.page.close()


def test_the_runtime_may_lie_elsewhere(browser, ort, tmp_path):
    with hosted(ort / "dist" if (ort / "dist").is_dir() else ort) as elsewhere:
        # By its other name: another origin.
        written = write_static(tmp_path, [MODEL], ort_url=elsewhere.replace("127.0.0.1", "localhost"))
        assert not any("ort" in path.name for path in written)
        with hosted(tmp_path) as url:
            shown = opened(browser, url)
            shown.page.click("#example")
            shown.page.wait_for_selector("#faces:not([hidden])", timeout=120_000)
            assert shown.errors == []
            shown.page.close()


def test_what_a_browser_alone_cannot_do_is_said(browser, site, tmp_path):
    Image.new("RGB", (300, 200), (90, 120, 90)).save(tmp_path / "green.png")
    with hosted(site) as url:
        shown = opened(browser, url)
        shown.page.set_input_files("#file", tmp_path / "green.png")
        settle(shown)
        assert shown.page.inner_text("#status").startswith("No face found: drag over one in the picture")
        for name, value in zip(("x0", "y0", "x1", "y1"), (900, 900, 950, 950), strict=True):
            shown.page.fill(f"#boxes [name={name}]", str(value))
        shown.page.click("#boxes button >> nth=0")
        shown.page.wait_for_selector("#message:not([hidden])")
        assert "overlaps the picture, got 900, 900, 950, 950" in shown.page.inner_text("#message")
        shown.page.set_input_files("#file", {"name": "a.tiff", "mimeType": "image/tiff", "buffer": b"II*\0"})
        shown.page.wait_for_selector("#message:has-text('a.tiff')")
        assert shown.errors == []
        shown.page.close()


def test_a_model_that_does_not_come_is_said(browser, site, tmp_path):
    shutil.copytree(site, tmp_path / "site")
    (tmp_path / "site" / "models" / f"{MODEL}.onnx").unlink()
    with hosted(tmp_path / "site") as url:
        shown = opened(browser, url)
        shown.page.click("#example")
        shown.page.wait_for_selector("#message:not([hidden])", timeout=60_000)
        assert f"models/{MODEL}.onnx gave 404" in shown.page.inner_text("#message")
        shown.page.close()


# ---------------------------------------------------------------------------------------------- without a browser


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({}, "npm install onnxruntime-web"),
        ({"ort": "here", "ort_url": "https://x.example/"}, "got both"),
        ({"ort": "here"}, "got no ort.wasm.min.mjs"),
        ({"ort_url": "http://x.example/"}, "expected the https address"),
        ({"ort_url": "https://x.example;script-src *"}, "expected the https address"),
        ({"ort_url": "https://x.example 'unsafe-inline'/"}, "expected the https address"),
        ({"ort_url": "ort"}, "expected the https address"),
    ],
)
def test_one_runtime_is_asked_for(tmp_path, options, text):
    with pytest.raises(InputError, match=text.replace("*", r"\*")):
        write_static(tmp_path / "site", [MODEL], **options)
    assert not (tmp_path / "site").exists()


def test_models_are_known_and_of_different_names(tmp_path):
    url = "https://x.example/dist"
    with pytest.raises(ModelError, match="ibug86"):
        write_static(tmp_path / "site", ["ibug86"], ort_url=url)
    with pytest.raises(InputError, match=f"one of each name, got {MODEL}, {MODEL}"):
        write_static(tmp_path / "site", [MODEL, MODEL], ort_url=url)
    assert not (tmp_path / "site" / "index.html").exists()


def test_the_policy_names_the_runtimes_origin_and_nothing_more(tmp_path):
    write_static(tmp_path, [MODEL], ort_url="https://x.example/npm/dist")
    page = (tmp_path / "index.html").read_text("utf-8")
    assert "script-src &#x27;self&#x27; https://x.example &#x27;wasm-unsafe-eval&#x27;" in page
    assert '"runtime": "https://x.example/npm/dist/"' in page
    assert not (tmp_path / "ort").exists()
    assert len(ORT_FILES) == 3
