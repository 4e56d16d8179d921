"""``cascade-kp demo``: a page on this computer, served by the standard library and by nothing else.

Pictures come as the bodies of requests, are looked at in memory, and are gone with the answer. By default only this
computer can reach the page; requests that another web page makes a browser send are refused by their Host or Origin.
"""

from __future__ import annotations

import ipaddress
import json
import logging
import math
import os
import select
import socket
import socketserver
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any, NoReturn
from urllib.parse import parse_qs, urlsplit

import cv2

from cascade_kp.apps.page import COMMON, asset, example_picture, index_html, plain_scheme
from cascade_kp.errors import CascadeError, InputError
from cascade_kp.images import decode_image
from cascade_kp.pipeline import Pipeline
from cascade_kp.weights import available_models, model_path

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from cascade_kp.models.cascade import Stage
    from cascade_kp.runtime import Backend
    from cascade_kp.structures import Face

__all__ = ["DEFAULT_PORT", "MAX_BYTES", "Demo", "DemoServer"]

DEFAULT_PORT = 7860
MAX_BYTES = 50_000_000
"""Largest picture file that is taken."""

_UPLOADS = 8  # bodies that are read at a time, so that they have a bound in memory; the next is told to come again
_UPLOAD_S = 120.0  # for a whole body: who sends a byte now and then shall not keep others out
_WAIT_S = 10.0
_AT_ONCE = 4  # pictures that are decoded at a time; more wait for one of them
_MAX_BOXES = 256
_IDLE_S = 60.0
_TYPES = {
    "html": "text/html",
    "css": "text/css",
    "js": "text/javascript",
    "png": "image/png",
    "json": "application/json",
}
_HEADERS = {
    "Cache-Control": "no-store",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
_WHERE = "Pictures go to the cascade-kp that serves this page, are looked at in its memory, and are not kept."
_log = logging.getLogger(__name__)


class Demo:
    """What the page asks for: faces of pictures, by several models, one picture at a time.

    Args:
        models: embedded models or model files to choose from beside the embedded ones; the first is chosen to begin
            with, and loaded at once.
        device: as of `Pipeline`.
        backend: as of `Pipeline`.
        threads: as of `Pipeline`.

    Raises:
        ModelError: a model is unknown, or the first one cannot be used.
        InputError: as of `Pipeline`.
    """

    def __init__(
        self,
        models: Sequence[str] = ("ibug68",),
        *,
        device: str = "cpu",
        backend: Backend = "auto",
        threads: int | None = None,
    ) -> None:
        for model in models:
            model_path(model)
        self.models = tuple(dict.fromkeys([*models, *available_models()]))
        self._options: dict[str, Any] = {"device": device, "backend": backend, "threads": threads}
        self._pipes: dict[str, Pipeline] = {}
        # One thread for all: the detector's classifiers belong to the thread that loaded them, torch's number of
        # threads to the whole process.
        self._worker = ThreadPoolExecutor(1, "demo")
        self._worker.submit(self._pipe, self.models[0]).result()

    def predict(
        self,
        data: bytes,
        name: str,
        model: str,
        stage: Stage,
        boxes: list[list[float]] | None = None,
        wanted: Callable[[], bool] = lambda: True,
    ) -> dict[str, Any]:
        """The faces of a picture.

        Args:
            data: of its file.
            name: of the picture, for messages.
            model: one of ``models``.
            stage: where to stop.
            boxes: (N, 4) xyxy px, faces to be taken as given; None to search.
            wanted: asked when it is this picture's turn, whether anybody still waits for it.

        Returns:
            Plain values: ``width``, ``height``, ``model``, ``stage``, ``scheme``, ``faces`` and ``timing``, rows of
            a name and milliseconds. Coordinates in full float32, px of the upright picture; None for NaN.

        Raises:
            CascadeError: what the library says to the picture, the boxes or the model.
            ConnectionAbortedError: nobody waits for it.
        """
        began = time.perf_counter()
        image = decode_image(data, name)
        decoded = time.perf_counter()
        timing = [["decode", 1e3 * (decoded - began)]]
        pipe, loaded, faces, spent = self._worker.submit(self._run, image, boxes, model, stage, wanted).result()
        timing += [["load the model, once", 1e3 * loaded]] if loaded else []
        rest = "regions" if stage == "regions" and pipe.info.config.regions else "rest"
        names = {"detect": "detect", "stage_one": "stage one", "regions": rest}
        timing += [[names[part], 1e3 * seconds] for part, seconds in spent.items()]
        return {
            "width": image.shape[1],
            "height": image.shape[0],
            "model": model,
            "stage": stage,
            "scheme": plain_scheme(pipe.scheme),
            "faces": [_plain(face) for face in faces],
            "timing": timing,
        }

    def _run(
        self, image: NDArray[np.uint8], boxes: object, model: str, stage: Stage, wanted: Callable[[], bool]
    ) -> tuple[Pipeline, float, list[Face], dict[str, float]]:
        """A pipeline, the seconds that loading it took, its faces, and the seconds that its parts took."""
        if not wanted():
            raise ConnectionAbortedError
        began, known = time.perf_counter(), model in self._pipes
        pipe = self._pipe(model)
        loaded = 0.0 if known else time.perf_counter() - began
        return pipe, loaded, *pipe.timed(image, boxes, stage=stage)

    def _pipe(self, model: str) -> Pipeline:
        if model not in self._pipes:
            self._pipes[model] = Pipeline(model, **self._options)
        return self._pipes[model]


def _plain(face: Face) -> dict[str, Any]:
    # Not to_dict: from rounded points no .pts file could be written to its four decimals.
    arrays = {key: getattr(face, key) for key in ("box", "keypoints", "sigma", "coarse")}
    return {"score": face.score} | {key: _numbers(value.tolist()) for key, value in arrays.items()}


def _numbers(value: object) -> object:
    if isinstance(value, list):
        return [_numbers(item) for item in value]
    return None if isinstance(value, float) and math.isnan(value) else value


class DemoServer(ThreadingHTTPServer):
    """Serves the page; ``serve_forever`` runs it, ``url`` says where.

    Args:
        demo: what answers.
        host: address or name to listen on; ``0.0.0.0`` is every address of this computer.
        port: None takes the usual one, or any that is free where that one is taken.
        max_bytes: largest picture file.

    Raises:
        InputError: the host or port cannot be listened on.
    """

    daemon_threads = True
    allow_reuse_address = os.name != "nt"  # there it would share a port that is in use

    def __init__(
        self, demo: Demo, host: str = "127.0.0.1", port: int | None = None, *, max_bytes: int = MAX_BYTES
    ) -> None:
        self.demo, self.host, self.max_bytes = demo, host, max_bytes
        self.room = threading.BoundedSemaphore(_AT_ONCE)
        self.uploads = threading.BoundedSemaphore(_UPLOADS)
        config = {"backend": "server", "models": [{"name": name} for name in demo.models], "limit": max_bytes}
        page, policy = index_html(config, _WHERE)
        self.policy = f"{policy}; frame-ancestors 'none'"
        self.files = {f"/{name}": asset(name) for name in (*COMMON, "server.js")} | {"/": page.encode()}
        self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        try:
            super().__init__((host, DEFAULT_PORT if port is None else port), _Handler)
        except (OSError, OverflowError) as error:
            if port is not None or not isinstance(error, OSError) or not _taken(error):
                where = f"{host}, port {DEFAULT_PORT if port is None else port}"
                raise InputError(f"expected an address that is free to listen on, got {where}: {error}") from error
            super().__init__((host, 0), _Handler)

    def server_bind(self) -> None:
        """Bind, without the look-up of a name that http.server does: it can take long, and may ask a network."""
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = self.host, self.server_address[1]

    @property
    def url(self) -> str:
        """Address for a browser on this computer."""
        host = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}.get(self.host, self.host)  # noqa: S104 (not bound here)
        return f"http://[{host}]:{self.server_port}/" if ":" in host else f"http://{host}:{self.server_port}/"

    def knows(self, host: str) -> bool:
        """Whether a request's Host is ours: an address, localhost, this computer's name, or the one listened on.

        A name that someone else made to point here would be his page's own, and give it what we answer. An address
        cannot be made to point elsewhere.
        """
        try:
            name = urlsplit(f"//{host}").hostname or ""
        except ValueError:  # brackets that do not close
            return False
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return bool(name) and name in {"localhost", self.host.lower(), socket.gethostname().lower()}
        return True

    def handle_error(self, request: object, client_address: object) -> None:
        """Visitors who leave in the middle are no error of ours; anything else is printed with its traceback."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)  # type: ignore[arg-type]


def _taken(error: OSError) -> bool:
    return error.errno in {98, 48, 10048, 13, 10013}  # in use (Linux, macOS, Windows); or not allowed


class _RefusedError(Exception):
    """A request that gets an error as its answer."""

    def __init__(self, status: HTTPStatus, text: str) -> None:
        super().__init__(text)
        self.status = status


class _Handler(BaseHTTPRequestHandler):
    server: DemoServer
    protocol_version = "HTTP/1.1"
    server_version, sys_version = "cascade-kp", ""
    timeout = _IDLE_S

    def do_GET(self) -> None:
        """The page and its parts."""
        try:
            self._guard()
            path = urlsplit(self.path).path
            if path == "/example.png":
                self._answer(example_picture(), "png")
            elif path in self.server.files:
                self._answer(self.server.files[path], path.rpartition(".")[2] if "." in path else "html")
            else:
                self._refuse(HTTPStatus.NOT_FOUND, f"there is no {path} here")
        except _RefusedError as refused:
            self._error(refused.status, str(refused))
        except CascadeError as error:
            self._error(HTTPStatus.NOT_FOUND, str(error))

    def do_POST(self) -> None:
        """A picture, and what is asked about it."""
        try:
            self._guard()
            path = urlsplit(self.path).path
            if path not in ("/predict", "/picture"):
                self._refuse(HTTPStatus.NOT_FOUND, f"there is no {path} here")
            query = {key: values[-1] for key, values in parse_qs(urlsplit(self.path).query).items()}
            name = query.get("name", "the picture")
            asked = self._asked(query) if path == "/predict" else {}
            length = self._length()
            if not self.server.uploads.acquire(timeout=_WAIT_S):
                self._refuse(HTTPStatus.SERVICE_UNAVAILABLE, "too many pictures at once; try again in a minute")
            try:
                data = self._body(length)
                with self.server.room:
                    if path == "/predict":
                        said = self.server.demo.predict(data, name, wanted=self._waits, **asked)
                        self._answer(json.dumps(said, allow_nan=False).encode(), "json")
                    elif self._waits():
                        self._answer(_png(decode_image(data, name)), "png")
            finally:
                self.server.uploads.release()
        except _RefusedError as refused:
            self._error(refused.status, str(refused))
        except CascadeError as error:
            self._error(HTTPStatus.UNPROCESSABLE_ENTITY, str(error))
        except (ConnectionError, TimeoutError):  # the browser is gone, as after a newer request
            self.close_connection = True
        except Exception as error:  # noqa: BLE001 (the page says what happened, and the server goes on)
            _log.exception("a picture that could not be answered")
            self._error(HTTPStatus.INTERNAL_SERVER_ERROR, f"{type(error).__name__}: {error}")

    def _body(self, length: int) -> bytes:
        """All of what the visitor sends, within the time for it."""
        parts, left, until = [], length, time.monotonic() + _UPLOAD_S
        while left:
            part = self.rfile.read1(min(left, 1 << 16))
            if not part:
                self._refuse(HTTPStatus.BAD_REQUEST, f"expected {length} bytes, got {length - left}")
            if time.monotonic() > until:
                text = f"expected {length} bytes within {_UPLOAD_S:.0f} s, got {length - left}"
                self._refuse(HTTPStatus.REQUEST_TIMEOUT, text)
            parts.append(part)
            left -= len(part)
        return b"".join(parts)

    def _waits(self) -> bool:
        """Whether the visitor is still there, as far as the connection tells."""
        try:
            readable, _, _ = select.select([self.connection], [], [], 0)
            return not readable or bool(self.connection.recv(1, socket.MSG_PEEK))
        except (OSError, ValueError):
            return False

    def _guard(self) -> None:
        host = self.headers.get("Host", "")
        if not self.server.knows(host):
            self._refuse(
                HTTPStatus.FORBIDDEN,
                f"Host: expected an address, localhost, {socket.gethostname()} or {self.server.host}, got {host!r}",
            )
        origin = self.headers.get("Origin")
        if origin is not None and origin.partition("://")[2] != host:
            self._refuse(HTTPStatus.FORBIDDEN, f"Origin: expected this page's own, {host}, got {origin!r}")

    def _length(self) -> int:
        text = self.headers.get("Content-Length", "")
        if not (text.isascii() and text.isdigit()):
            self._refuse(HTTPStatus.LENGTH_REQUIRED, f"Content-Length: expected a number of bytes, got {text!r}")
        # Python makes no number of thousands of digits, and no file is larger than this one.
        length, most = int(text) if len(text) < 19 else sys.maxsize, self.server.max_bytes
        if length > most:
            got = f"{length / 1e6:.1f}"
            text = f"expected a picture of at most {most / 1e6:.1f} MB, got {got} MB; shrink it first"
            self._refuse(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, text)
        return length

    def _asked(self, query: Mapping[str, str]) -> dict[str, Any]:
        models, stages = self.server.demo.models, ("regions", "coarse")
        model, stage = query.get("model", models[0]), query.get("stage", "regions")
        if model not in models:  # never a path of the visitor's choice
            self._refuse(HTTPStatus.BAD_REQUEST, f"model: expected one of {', '.join(models)}, got {model!r}")
        if stage not in stages:
            self._refuse(HTTPStatus.BAD_REQUEST, f"stage: expected one of {', '.join(stages)}, got {stage!r}")
        boxes = None
        if "boxes" in query:
            rows = query["boxes"].split(";")
            try:
                boxes = [[float(value) for value in row.split(",")] for row in rows]
            except ValueError:
                boxes = [[]]
            if len(rows) > _MAX_BOXES or any(len(row) != 4 for row in boxes):
                expected = f"at most {_MAX_BOXES} of x0,y0,x1,y1, with ; between them"
                self._refuse(HTTPStatus.BAD_REQUEST, f"boxes: expected {expected}, got {query['boxes'][:80]!r}")
        return {"model": model, "stage": stage, "boxes": boxes}

    def _refuse(self, status: HTTPStatus, text: str) -> NoReturn:
        raise _RefusedError(status, text)

    def _answer(self, content: bytes, kind: str, status: HTTPStatus = HTTPStatus.OK) -> None:
        self.send_response(status)
        for name, value in _HEADERS.items():
            self.send_header(name, value)
        self.send_header("Content-Security-Policy", self.server.policy)
        self.send_header("Content-Type", _TYPES[kind] if kind == "png" else f"{_TYPES[kind]}; charset=utf-8")
        self.send_header("Content-Length", str(len(content)))
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(content)

    def _error(self, status: HTTPStatus, text: str) -> None:
        """Say what is wrong; what is left of the request is not read as another one."""
        self.close_connection = True
        try:
            self._answer(json.dumps({"error": text}).encode(), "json", status)
            self._drain()
        except OSError:
            pass

    def _drain(self) -> None:
        """Take what a browser still sends: most do not look at an answer before all of it is gone."""
        self.wfile.flush()
        self.connection.shutdown(socket.SHUT_WR)
        self.connection.settimeout(1.0)
        until = time.monotonic() + _IDLE_S
        while time.monotonic() < until and self.connection.recv(1 << 16):
            pass

    def log_message(self, *_: object) -> None:
        """Nothing: who looked at which picture is nobody's business."""


def _png(image: NDArray[np.uint8]) -> bytes:
    done, data = cv2.imencode(".png", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_PNG_COMPRESSION, 1])
    if not done:
        raise InputError(f"expected a picture that a PNG can hold, got {image.shape}")
    return data.tobytes()
