"""Advisories and licences: a finding is told from silence, and silence from a clean bill."""

from __future__ import annotations

import http.server
import importlib.metadata
import json
import threading
from contextlib import contextmanager
from email.message import Message

import pytest

pytest.importorskip("tools.audit", reason="needs a checkout, and its tools: pip install -e '.[dev]'")

from tools import audit


@contextmanager
def service(known):
    """An advisory service of OSV's form.

    Args:
        known: by package, the number of an advisory about it, mended in 2.0.
    """

    class Answers(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            name = asked["package"]["name"]
            found = []
            if name in known:
                ranges = [{"type": "ECOSYSTEM", "events": [{"introduced": "0"}, {"fixed": "2.0"}]}]
                package = {"name": name, "ecosystem": "PyPI", "purl": f"pkg:pypi/{name}"}
                found.append({"id": known[name], "affected": [{"package": package, "ranges": ranges}]})
                found[0]["published"] = found[0]["modified"] = "2020-01-01T00:00:00Z"
            body = json.dumps({"vulns": found} if found else {}).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answers) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/v1/query"
        server.shutdown()
        thread.join()


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """A folder that holds two packages, for pip-audit to look at; all is local, proxies are not asked."""
    monkeypatch.setenv("NO_PROXY", "*")
    for name in ("fine", "leaky"):
        folder = tmp_path / f"{name}-1.0.dist-info"
        folder.mkdir()
        (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    return ["--path", str(tmp_path), "--vulnerability-service", "osv", "--osv-url"]


def test_a_finding(installed):
    pytest.importorskip("pip_audit")
    with service({"leaky": "PYSEC-2020-1"}) as url:
        assert audit.advisories(*installed, url) == (["leaky 1.0: PYSEC-2020-1, mended in 2.0"], [])
    with service({}) as url:
        assert audit.advisories(*installed, url) == ([], [])


def test_a_service_that_does_not_answer(installed):
    pytest.importorskip("pip_audit")
    found, [unasked] = audit.advisories(*installed, "http://127.0.0.1:9/")
    assert found == []
    assert unasked.startswith("all: pip-audit ended with 1: ")
    assert "127.0.0.1" in unasked


def test_an_index_that_knows_no_package_is_no_clean_bill():
    skipped = {"name": "pillow", "skip_reason": "Dependency not found on PyPI"}
    ours = {"name": "cascade_kp", "skip_reason": "Dependency not found on PyPI"}
    assert audit.sorted_out([skipped, ours]) == ([], ["pillow: Dependency not found on PyPI"])


def test_what_is_accepted_is_no_finding(monkeypatch):
    known = {"id": "PYSEC-2020-1", "aliases": ["CVE-2020-1"], "fix_versions": []}
    leaky = [{"name": "leaky", "version": "1.0", "vulns": [known]}]
    assert audit.sorted_out(leaky) == (["leaky 1.0: PYSEC-2020-1, mended in no version"], [])
    monkeypatch.setattr(audit, "ACCEPTED", {"CVE-2020-1": "we do not call it"})
    assert audit.sorted_out(leaky) == ([], [])


@pytest.mark.parametrize(
    ("wrong", "answer", "code"),
    [
        ([], ([], []), 0),
        ([], (["leaky"], []), 1),
        ([], ([], ["all"]), 2),
        ([], (["leaky"], ["some"]), 1),
        (["strange"], ([], ["all"]), 1),
    ],
)
def test_exit_codes(monkeypatch, capsys, wrong, answer, code):
    monkeypatch.setattr(audit, "needed", lambda *_: ["numpy"])
    monkeypatch.setattr(audit, "objection", lambda *_: "".join(wrong))
    monkeypatch.setattr(audit, "advisories", lambda *_: answer)
    assert audit.main([]) == code
    said = capsys.readouterr()
    assert ("no clean bill" in said.err) == bool(answer[1])
    assert audit.main(["--licences"]) == (1 if wrong else 0)


def test_a_package_that_is_not_installed_is_named(monkeypatch, capsys):
    def lacks(_):
        raise importlib.metadata.PackageNotFoundError("ray")

    monkeypatch.setattr(importlib.metadata, "requires", lacks)
    assert audit.main(["--licences"]) == 2
    assert "expected cascade-kp here with all its extras, got none of ray" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("expression", "answer"),
    [
        ("MIT", True),
        ("mit", True),
        ("GPL-3.0-only", False),
        ("MIT AND GPL-3.0-only", False),
        ("MIT OR GPL-3.0-only", True),
        ("(MIT OR GPL-3.0-only) AND AGPL-3.0-only", False),
        ("Apache-2.0 WITH LLVM-exception", True),
        ("GPL-2.0-only WITH Classpath-exception-2.0", False),
    ],
)
def test_expressions(expression, answer):
    assert audit.allowed(expression) == answer


def declared(**headers):
    metadata = Message()
    for name, value in headers.items():
        for one in [value] if isinstance(value, str) else value:
            metadata[name.replace("_", "-")] = one
    return metadata


@pytest.mark.parametrize(
    ("metadata", "said"),
    [
        (declared(License_Expression="MIT OR GPL-3.0-only", License="GPL"), "MIT OR GPL-3.0-only"),
        (declared(Classifier=["License :: OSI Approved :: BSD License", "Typing :: Typed"]), "(BSD-3-Clause)"),
        (declared(Classifier="License :: OSI Approved", License="Apache 2.0"), "(Apache-2.0)"),
        (declared(License="All of this\nis a text"), ""),
        (declared(), ""),
    ],
)
def test_what_packages_say(metadata, said):
    assert audit.said_by(metadata) == said


@pytest.mark.parametrize(
    ("name", "metadata", "words"),
    [
        (
            "one",
            declared(License_Expression="AGPL-3.0-only"),
            "one: expected a licence of ALLOWED, got 'AGPL-3.0-only'",
        ),
        ("one", declared(), "one: expected a licence in its metadata, got none"),
        ("one", declared(License="Do what you like"), "one: expected a licence that SPDX knows, got"),
        ("one", declared(License_Expression="LicenseRef-NVIDIA-Proprietary"), "that SPDX knows"),
        ("nvidia-cublas", declared(License_Expression="LicenseRef-NVIDIA-Proprietary"), ""),
        ("nvidia", declared(), "got none"),
        ("one", declared(License_Expression="MIT"), ""),
    ],
)
def test_objections(name, metadata, words):
    said = audit.objection(name, metadata)
    assert words in said
    assert bool(words) == bool(said)


def test_what_is_needed_is_what_needs_need():
    needed = audit.needed("cascade-kp", [])
    assert {"cascade-kp", "torch", "numpy", "contourpy"} <= set(needed)  # the last by way of matplotlib
    assert "ruff" not in needed
