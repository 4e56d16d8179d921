"""The demo's server, by hand-made requests; and its page, in a real browser, against the library's own numbers."""

from __future__ import annotations

import http.client
import io
import json
import socket
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from urllib.parse import quote

import numpy as np
import pytest
from browser_case import Opened, launched
from PIL import Image

from cascade_kp.apps import demo as demo_module
from cascade_kp.apps.demo import DEFAULT_PORT, Demo, DemoServer
from cascade_kp.apps.page import example_picture
from cascade_kp.errors import InputError, ModelError
from cascade_kp.images import decode_image
from cascade_kp.pipeline import Pipeline

BOX = [178.0, 85.0, 275.0, 182.0]
HOSTILE = "<img src=x onerror=window.hacked=1>'\"é漢.png"


@contextmanager
def serving(demo, **options):
    with DemoServer(demo, **{"port": 0, **options}) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture(scope="module")
def demo():
    return Demo(threads=1)


@pytest.fixture(scope="module")
def server(demo):
    with serving(demo) as running:
        yield running


@pytest.fixture(scope="module")
def pipe():
    return Pipeline(threads=1)


@pytest.fixture(scope="module")
def portrait(tmp_path_factory):
    path = tmp_path_factory.mktemp("pictures") / "astronaut.png"
    path.write_bytes(example_picture())
    return path


def ask(server, method, path, body=None, **headers):
    """(status, headers, body) of one request; keys of headers with _ in place of -."""
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=60)
    try:
        connection.request(method, path, body, {key.replace("_", "-"): value for key, value in headers.items()})
        answer = connection.getresponse()
        return answer.status, dict(answer.getheaders()), answer.read()
    finally:
        connection.close()


def error_of(said):
    status, headers, body = said
    assert headers["Content-Type"].startswith("application/json")
    return status, json.loads(body)["error"]


# ---------------------------------------------------------------------------------------------- the server


def test_the_page_forbids_what_it_does_not_need(server):
    status, headers, body = ask(server, "GET", "/")
    assert status == 200
    assert b"{{" not in body
    policy = headers["Content-Security-Policy"]
    assert policy.startswith("default-src 'none'; script-src 'self'")
    assert "unsafe" not in policy
    assert "frame-ancestors 'none'" in policy
    assert headers["Cache-Control"] == "no-store"
    for name in ("main.js", "draw.js", "files.js", "server.js", "style.css", "example.png"):
        assert ask(server, "GET", f"/{name}")[0] == 200
    for path in ("/browser.js", "/../demo.py", "/%2e%2e/demo.py", "/predict"):
        assert error_of(ask(server, "GET", path))[0] == 404


def test_numbers_are_those_of_the_library_to_the_last_bit(server, pipe, portrait):
    data = portrait.read_bytes()
    found = json.loads(ask(server, "POST", "/predict", data)[2])
    (face,) = pipe(portrait)
    (said,) = found["faces"]
    for key in ("keypoints", "sigma", "coarse", "box"):
        np.testing.assert_array_equal(np.array(said[key], np.float32), getattr(face, key))
    assert said["score"] == face.score
    assert found["scheme"]["keypoints"] == list(face.scheme.keypoints)
    assert [name for name, _ in found["timing"]] == ["decode", "detect", "stage one", "regions"]
    assert all(ms >= 0 for _, ms in found["timing"])
    row = ",".join(map(str, BOX))
    given = json.loads(ask(server, "POST", f"/predict?stage=coarse&boxes={row};{row}", data)[2])
    (coarse,) = Pipeline(stage="coarse", threads=1)(portrait, boxes=[BOX])
    assert len(given["faces"]) == 2
    np.testing.assert_allclose(given["faces"][1]["keypoints"], coarse.keypoints, atol=1e-3)
    assert given["timing"][-1][0] == "rest"


@pytest.mark.parametrize(
    ("query", "status", "text"),
    [
        ("model=/etc/passwd", 400, "model: expected one of ibug68,"),
        ("stage=fine", 400, "stage: expected one of regions, coarse, got 'fine'"),
        ("boxes=1,2,3", 400, "boxes: expected at most 256 of x0,y0,x1,y1"),
        ("boxes=a,b,c,d", 400, "got 'a,b,c,d'"),
        ("boxes=" + ";".join(["0,0,9,9"] * 257), 400, "at most 256"),
        ("boxes=900,900,999,999", 422, "box"),
        ("boxes=nan,0,9,9", 422, "box"),
    ],
)
def test_what_cannot_be_asked_is_said(server, portrait, query, status, text):
    got, said = error_of(ask(server, "POST", f"/predict?{query}", portrait.read_bytes()))
    assert got == status
    assert text in said


def test_a_bad_picture_gets_the_librarys_words(server, portrait):
    status, said = error_of(ask(server, "POST", f"/predict?name={quote('a b.png')}", b"no picture at all"))
    assert status == 422
    assert said.startswith("a b.png: expected a JPEG, PNG")
    cut = portrait.read_bytes()[:200_000]
    assert "cut off or damaged" in error_of(ask(server, "POST", "/predict", cut))[1]
    assert "empty file" in error_of(ask(server, "POST", "/picture", b""))[1]


def test_a_picture_that_browsers_do_not_show_comes_back_upright(server):
    stored = Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 60, 3), np.uint8))
    exif = Image.Exif()
    exif[0x0112] = 6
    file = io.BytesIO()
    stored.save(file, "TIFF", exif=exif)
    status, headers, body = ask(server, "POST", "/picture", file.getvalue())
    assert (status, headers["Content-Type"]) == (200, "image/png")
    np.testing.assert_array_equal(decode_image(body), decode_image(file.getvalue()))
    assert decode_image(body).shape == (60, 40, 3)


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:7860", "localhost.evil.example", "", "127.0.0.1.evil.example", "[::1"]
)
def test_another_name_for_this_computer_is_refused(server, portrait, host):
    for method, path, body in (("GET", "/", None), ("POST", "/predict", portrait.read_bytes())):
        status, said = error_of(ask(server, method, path, body, Host=host))
        assert status == 403
        assert said.startswith(f"Host: expected an address, localhost, {socket.gethostname()} or 127.0.0.1, got ")


def test_requests_of_another_page_are_refused(server, portrait):
    own = f"127.0.0.1:{server.server_port}"
    for origin in ("http://evil.example", "null", f"http://localhost:{server.server_port}", "http://127.0.0.1:1"):
        status, said = error_of(ask(server, "POST", "/predict", portrait.read_bytes(), Origin=origin))
        assert (status, said.startswith("Origin: expected this page's own")) == (403, True)
    assert ask(server, "POST", "/picture", portrait.read_bytes(), Origin=f"http://{own}")[0] == 200
    # As through a tunnel, which has a port of its own.
    for host in ("localhost:9000", "127.0.0.1:9000", "[::1]:80", "192.168.7.7"):
        assert ask(server, "GET", "/", Host=host)[0] == 200


def test_too_large_a_file_is_refused_before_it_is_read(demo):
    with serving(demo, max_bytes=10_000) as server:
        status, said = error_of(ask(server, "POST", "/predict", bytes(3_000_000)))
        assert (status, said) == (413, "expected a picture of at most 0.0 MB, got 3.0 MB; shrink it first")
        assert ask(server, "GET", "/")[0] == 200


@pytest.mark.parametrize("digits", [18, 400, 5000])  # of 400, Python makes no float; of 5000, no number
def test_a_length_of_many_digits_is_too_large(server, digits):
    assert error_of(ask(server, "POST", "/predict", Content_Length="9" * digits))[0] == 413


@pytest.mark.parametrize("length", ["", "-1", "1e3", "²"])
def test_a_length_that_is_none_is_refused(server, length):
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=20)
    connection.putrequest("POST", "/predict")
    if length:
        connection.putheader("Content-Length", length.encode())
    connection.endheaders()
    assert connection.getresponse().status == 411
    connection.close()


def test_an_error_of_ours_ends_one_answer_and_nothing_else(server, portrait, monkeypatch, caplog):
    def broken(*_args, **_options):
        raise ZeroDivisionError("ours")

    with monkeypatch.context() as patch:
        patch.setattr(server.demo, "predict", broken)
        assert error_of(ask(server, "POST", "/predict", portrait.read_bytes())) == (500, "ZeroDivisionError: ours")
    assert "Traceback" in caplog.text
    assert ask(server, "POST", "/predict", portrait.read_bytes())[0] == 200


def test_a_visitor_who_leaves_in_the_middle_disturbs_nobody(server, portrait):
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=20)
    connection.putrequest("POST", "/predict")
    connection.putheader("Content-Length", "1000000")
    connection.endheaders(b"half")
    connection.close()
    assert ask(server, "POST", "/predict", portrait.read_bytes())[0] == 200


def test_uploads_that_stall_keep_nobody_out(server, portrait):
    head = b"POST /predict HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 1000\r\n\r\nx"
    with ExitStack() as stack:
        for _ in range(5):  # more than are decoded at a time
            stalled = stack.enter_context(socket.create_connection(("127.0.0.1", server.server_port)))
            stalled.sendall(head)
        assert ask(server, "POST", "/predict", portrait.read_bytes())[0] == 200


def test_an_upload_has_an_end(server, monkeypatch):
    monkeypatch.setattr(demo_module, "_UPLOAD_S", 0.2)
    with socket.create_connection(("127.0.0.1", server.server_port), timeout=20) as slow:
        slow.sendall(b"POST /predict HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 1000\r\n\r\n")
        for _ in range(5):
            time.sleep(0.1)
            slow.sendall(b"x")
        assert slow.recv(1000).startswith(b"HTTP/1.1 408 ")


def test_too_many_uploads_are_sent_away(demo, portrait, monkeypatch):
    monkeypatch.setattr(demo_module, "_UPLOADS", 1)
    monkeypatch.setattr(demo_module, "_WAIT_S", 0.1)
    with serving(demo) as own, socket.create_connection(("127.0.0.1", own.server_port)) as stalled:
        stalled.sendall(b"POST /predict HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 1000\r\n\r\nx")
        time.sleep(0.2)
        assert error_of(ask(own, "POST", "/predict", portrait.read_bytes())) == (
            503,
            "too many pictures at once; try again in a minute",
        )


def test_nobody_waits_for_what_was_given_up(server, portrait, monkeypatch):
    """Requests whose sender is gone are not worked on: one is, which holds the others up meanwhile."""
    begun, go_on, sizes = threading.Event(), threading.Event(), []
    timed = Pipeline.timed

    def held(self, image, *args, **options):
        sizes.append(image.shape[0])
        begun.set()
        assert go_on.wait(30)
        return timed(self, image, *args, **options)

    monkeypatch.setattr(Pipeline, "timed", held)
    data = portrait.read_bytes()
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(ask, server, "POST", "/predict", data)
        assert begun.wait(30)
        for _ in range(2):
            with socket.create_connection(("127.0.0.1", server.server_port)) as gone:
                head = f"POST /predict HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: {len(data)}\r\n\r\n"
                gone.sendall(head.encode() + data)
        time.sleep(1.0)
        go_on.set()
        assert first.result()[0] == 200
    assert ask(server, "POST", "/predict", data)[0] == 200
    assert len(sizes) == 2


def test_nothing_is_kept(server, portrait, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    for body in (portrait.read_bytes(), b"no picture", bytes(2_000_000)):
        ask(server, "POST", "/predict?name=secret.png", body)
    assert list(tmp_path.iterdir()) == []
    assert capfd.readouterr() == ("", "")


def test_the_port(demo):
    with serving(demo) as first:
        assert first.server_address[0] == "127.0.0.1"
        assert first.url == f"http://127.0.0.1:{first.server_port}/"
        with pytest.raises(InputError, match=f"free to listen on, got 127.0.0.1, port {first.server_port}"):
            DemoServer(demo, port=first.server_port)
    with pytest.raises(InputError, match="port 70000"):
        DemoServer(demo, port=70000)
    with DemoServer(demo) as usual, DemoServer(demo) as other:
        assert other.server_port not in (usual.server_port, DEFAULT_PORT)
    with DemoServer(demo, "0.0.0.0", 0) as everywhere:  # noqa: S104 (what is tested)
        assert everywhere.url.startswith("http://127.0.0.1:")


def test_models_are_named_before_anything_is_loaded():
    with pytest.raises(ModelError, match="got 'ibug86'"):
        Demo(["ibug68", "ibug86"])


# ---------------------------------------------------------------------------------------------- the page


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    """Chromium with a camera that sees the astronaut."""
    clip = tmp_path_factory.mktemp("camera") / "clip.mjpeg"
    frame = io.BytesIO()
    portrait = Image.fromarray(decode_image(example_picture()))
    portrait.resize((640, 640)).crop((0, 0, 640, 480)).save(frame, "JPEG", quality=95)
    clip.write_bytes(frame.getvalue() * 4)
    flags = ["--use-fake-ui-for-media-stream", "--use-fake-device-for-media-stream"]
    with launched(*flags, f"--use-file-for-fake-video-capture={clip}") as running:
        yield running


class Shown(Opened):
    """The page, and hands for it."""

    def __init__(self, browser, server, **context):
        super().__init__(browser, server.url, **context)
        self.url = server.url
        self.page.wait_for_selector("body[data-ready]")

    def open(self, *files):
        self.page.set_input_files("#file", *files)
        self.settle()

    def settle(self):
        self.page.wait_for_selector("body:not([aria-busy])", timeout=60_000)

    def status(self):
        return self.page.inner_text("#status")

    def saved(self, selector):
        with self.page.expect_download() as waiting:
            self.page.click(selector)
        return waiting.value.suggested_filename, Path(waiting.value.path()).read_bytes()

    def faces(self):
        return json.loads(self.saved("#json")[1])["faces"]

    def drawn(self):
        return self.page.evaluate("document.getElementById('canvas').toDataURL()")

    def close(self):
        assert self.errors == []
        assert [url for url in self.requests if not url.startswith(self.url)] == []
        self.page.close()


@pytest.fixture
def shown(browser, server):
    page = Shown(browser, server)
    yield page
    if not page.page.is_closed():
        page.close()


def test_a_picture_is_opened_and_its_points_are_the_librarys(shown, pipe, portrait, tmp_path):
    shown.open(portrait)
    assert shown.status() == "1 face, 68 keypoints (512 x 512 px)"
    (face,) = pipe(portrait)
    name, text = shown.saved("#json")
    assert name == "astronaut.json"
    assert json.loads(text) == {"image": "astronaut.png", "faces": [face.to_dict()]}
    face.save_pts(tmp_path / "astronaut.pts")
    assert shown.saved("#faces td:last-child button") == ("astronaut.pts", (tmp_path / "astronaut.pts").read_bytes())
    name, png = shown.saved("#drawing")
    assert name == "astronaut-keypoints.png"
    before, after = decode_image(example_picture()).astype(int), decode_image(png).astype(int)
    changed = np.argwhere((before != after).any(axis=2))
    # Drawn where the face is, and nowhere else.
    low, high = changed.min(axis=0)[::-1], changed.max(axis=0)[::-1]
    np.testing.assert_allclose([*low, *high], face.box, atol=15)
    i = face.scheme.keypoints.index(face.scheme.keypoints[face.scheme.region("nose")[0]])
    x, y = np.floor(face.keypoints[i]).astype(int)
    assert np.abs(after[y, x] - [204, 121, 167]).max() < 60  # the nose's colour, on its point


def test_points_of_several_pictures_round_as_the_library_rounds(shown):
    # Half-way cases at the third and fourth decimal, negative numbers, what is not known.
    values = [0.0625, 0.1875, 12.03125, 12.09375, -3.0625, -0.0004, 1234.5678, 0.5, 99999.999, -0.53125, 2.0]
    script = """async (values) => {
      const { decimals, json } = await import('./files.js');
      const points = { keypoints: [[null, null]], sigma: [null], coarse: [[1, 2]] };
      const face = { box: values.slice(0, 4), score: 0.0625, ...points };
      return [values.map((v) => decimals(v, 4)), values.map((v) => decimals(v, 3)), json('a', [face])];
    }"""
    four, three, text = shown.page.evaluate(script, values)
    assert four == [f"{value:.4f}" for value in values]
    assert three == [f"{value:.3f}" for value in values]
    (face,) = json.loads(text)["faces"]
    assert face["score"] == round(0.0625, 3)
    assert face["keypoints"] == [[None, None]]


def test_every_switch_changes_what_is_drawn_and_takes_it_back(shown, portrait):
    shown.open(portrait)
    boxes = shown.page.locator("#layers input, #regions input")
    assert boxes.count() == 6 + 5
    for i in range(boxes.count()):
        before = shown.drawn()
        boxes.nth(i).click()
        assert shown.drawn() != before, boxes.nth(i).get_attribute("name")
        boxes.nth(i).click()
        assert shown.drawn() == before
    before = shown.drawn()
    shown.page.click("#faces td:first-child button")
    assert shown.drawn() != before
    shown.page.click("#faces td:first-child button")
    assert shown.drawn() == before


def test_model_and_stage_are_chosen(shown, portrait):
    shown.open(portrait)
    shown.page.select_option("#stage", "coarse")
    shown.settle()
    (coarse,) = Pipeline(stage="coarse", threads=1)(portrait)
    np.testing.assert_allclose(shown.faces()[0]["keypoints"], coarse.keypoints, atol=2e-3)
    assert shown.page.is_disabled("#layers [name=coarse]")
    shown.page.select_option("#model", "kaggle15")
    shown.settle()
    assert shown.status().startswith("1 face, 15 keypoints")
    rows = shown.page.inner_text("#timing")
    assert all(
        name in rows for name in ("decode", "load the model, once", "detect", "stage one", "rest", "there and back")
    )


def test_a_box_is_typed_or_dragged(shown, pipe, portrait):
    shown.open(portrait)
    for name, value in zip(("x0", "y0", "x1", "y1"), BOX, strict=True):
        shown.page.fill(f"#boxes [name={name}]", str(value))
    shown.page.press("#boxes [name=y1]", "Enter")
    shown.settle()
    (face,) = pipe(portrait, boxes=[BOX])
    assert shown.faces() == [face.to_dict()]
    shown.page.fill("#boxes [name=x0]", "left")
    shown.page.click("#boxes button >> nth=0")
    assert "expected four numbers" in shown.page.inner_text("#message")
    shown.page.click("#find")
    shown.settle()
    area = shown.page.locator("#canvas").bounding_box()
    scale = area["width"] / 512
    shown.page.mouse.move(area["x"] + BOX[0] * scale, area["y"] + BOX[1] * scale)
    shown.page.mouse.down()
    shown.page.mouse.move(area["x"] + 200 * scale, area["y"] + 120 * scale)
    shown.page.mouse.move(area["x"] + BOX[2] * scale, area["y"] + BOX[3] * scale)
    shown.page.mouse.up()
    shown.settle()
    box = [float(shown.page.input_value(f"#boxes [name={name}]")) for name in ("x0", "y0", "x1", "y1")]
    np.testing.assert_allclose(box, BOX, atol=1.0)
    (face,) = pipe(portrait, boxes=[box])
    assert shown.faces() == [face.to_dict()]


def test_a_finger_draws_a_box_once_it_is_told_to(shown, portrait):
    shown.open(portrait)
    area = shown.page.locator("#canvas").bounding_box()
    scale = area["width"] / 512
    hand = shown.page.context.new_cdp_session(shown.page)

    def swipe():
        for kind, *place in (("touchStart", *BOX[:2]), ("touchMove", 220, 130), ("touchMove", *BOX[2:])):
            x, y = (area[side] + value * scale for side, value in zip("xy", place, strict=True))
            hand.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": [{"x": x, "y": y}]})
        hand.send("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})

    swipe()  # this moves the page
    assert shown.page.input_value("#boxes [name=x0]") == ""
    shown.page.click("#draw")
    area = shown.page.locator("#canvas").bounding_box()
    swipe()
    shown.settle()
    box = [float(shown.page.input_value(f"#boxes [name={name}]")) for name in ("x0", "y0", "x1", "y1")]
    np.testing.assert_allclose(box, BOX, atol=1.5)
    assert shown.page.get_attribute("#draw", "aria-pressed") == "false"


def test_a_picture_that_lies_on_its_side_is_seen_upright(shown, pipe, portrait, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = tmp_path / "turned.jpg"
    Image.open(portrait).crop((80, 0, 400, 400)).transpose(Image.Transpose.ROTATE_90).save(
        turned, exif=exif, quality=95
    )
    shown.open(turned)
    assert shown.status() == "1 face, 68 keypoints (320 x 400 px)"
    assert shown.faces() == [pipe(turned)[0].to_dict()]
    assert decode_image(shown.saved("#drawing")[1]).shape == (400, 320, 3)


def test_a_picture_that_the_browser_cannot_show_is_shown(shown, pipe, portrait, tmp_path):
    path = tmp_path / "scan.tiff"
    Image.open(portrait).save(path)
    shown.open(path)
    assert shown.faces() == [pipe(path)[0].to_dict()]
    assert decode_image(shown.saved("#drawing")[1]).shape == (512, 512, 3)


def test_no_face_is_said(shown, tmp_path):
    path = tmp_path / "grey.png"
    Image.new("RGB", (200, 150), (128, 128, 128)).save(path)
    shown.open(path)
    assert shown.status() == "No face found: drag over one in the picture (200 x 150 px)"
    assert not shown.page.is_visible("#faces")


def test_a_bad_file_is_named_and_no_name_becomes_markup(browser, server, portrait):
    shown = Shown(browser, server)
    shown.open({"name": HOSTILE, "mimeType": "image/png", "buffer": b"no picture"})
    message = shown.page.inner_text("#message")
    assert message.startswith(HOSTILE)
    assert "expected a JPEG, PNG" in message
    assert shown.page.evaluate("window.hacked") is None
    assert not shown.page.is_visible("#canvas")
    shown.open({"name": HOSTILE, "mimeType": "image/png", "buffer": portrait.read_bytes()})
    assert not shown.page.is_visible("#message")
    assert json.loads(shown.saved("#json")[1])["image"] == HOSTILE
    assert shown.page.evaluate("window.hacked") is None
    assert all("422" in error for error in shown.errors), shown.errors
    shown.page.close()


def test_too_large_a_file_never_leaves_the_page(browser, demo, portrait):
    with serving(demo, max_bytes=100_000) as small:
        shown = Shown(browser, small)
        shown.open(portrait)
        assert shown.page.inner_text("#message") == "expected a picture of at most 0.1 MB, got 0.5 MB; shrink it first"
        shown.close()


def test_the_example_is_there(shown):
    shown.page.click("#example")
    shown.page.wait_for_selector("#faces:not([hidden])", timeout=60_000)
    assert shown.status().startswith("1 face")


@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (400, "dark")])
def test_nothing_hangs_over_the_edge(browser, server, portrait, width, scheme):
    shown = Shown(browser, server, viewport={"width": width, "height": 800}, color_scheme=scheme)
    shown.open(portrait)
    assert shown.page.evaluate("document.documentElement.scrollWidth") <= width
    ground = shown.page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert ground == ("rgb(255, 255, 255)" if scheme == "light" else "rgb(20, 23, 27)")
    shown.close()


def test_the_webcam(shown):
    shown.page.click("#webcam")
    shown.page.wait_for_selector("#status:has-text('1 face, 68 keypoints, ')", timeout=60_000)
    assert shown.status().endswith(" frames a second")
    assert shown.page.inner_text("#webcam") == "Stop"
    shown.page.click("#webcam")
    assert shown.page.inner_text("#webcam") == "Webcam"
    shown.page.wait_for_timeout(300)
    (face,) = shown.faces()
    assert 150 < face["box"][0] < 300
    assert shown.page.evaluate("navigator.mediaDevices.enumerateDevices().then((all) => all.length)") >= 1


def test_a_webcam_that_is_refused_is_said(browser, server):
    shown = Shown(browser, server)
    shown.page.evaluate("() => { navigator.mediaDevices.getUserMedia = () => Promise.reject(new Error('not today')); }")
    shown.page.click("#webcam")
    shown.page.wait_for_selector("#message:has-text('the webcam: not today')")
    assert shown.page.inner_text("#webcam") == "Webcam"
    shown.close()
