"""A stand-in for a Hugging Face hub: the few addresses that ``huggingface_hub`` asks to push and pull a model."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

TOKEN = "hf_good"  # noqa: S105 (of the stand-in)


class Hub:
    """What is stored, what was asked, and what shall go wrong.

    Attributes:
        repos: By name: whether it is private, and its commits, oldest first, each an oid and its files.
        asked: (method, path) of every request.
        corrupt: Whether downloads have one bit changed.
        hanging: Whether nothing is answered.
    """

    def __init__(self):
        self.repos = {}
        self.blobs = {}
        self.asked = []
        self.corrupt = False
        self.hanging = False
        self.released = threading.Event()
        self.endpoint = ""

    def put(self, repo, files, *, private=False):
        """A commit, as if someone had made it; returns its oid."""
        entry = self.repos.setdefault(repo, {"private": private, "commits": []})
        before = entry["commits"][-1][1] if entry["commits"] else {}
        oid = hashlib.sha1(f"{repo}{len(entry['commits'])}".encode()).hexdigest()  # noqa: S324 (as git's)
        entry["commits"].append((oid, before | files))
        return oid

    def files(self, repo, revision):
        """(oid, files) of a revision, None where there is none."""
        commits = self.repos[repo]["commits"]
        found = [commit for commit in commits if commit[0] == revision] or (commits[-1:] if revision == "main" else [])
        return found[0] if found else None


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    @property
    def hub(self):
        return self.server.hub

    def log_message(self, *_):
        pass

    def answer(self, status, content=b"", error=None, **headers):
        if not isinstance(content, bytes):
            content = json.dumps(content).encode()
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        if error:
            self.send_header("X-Error-Code", error)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def handle_any(self):
        length = int(self.headers.get("Content-Length") or 0)
        body = self.rfile.read(length)
        path = unquote(urlsplit(self.path).path)
        self.hub.asked.append((self.command, path))
        if self.hub.hanging:
            self.hub.released.wait(20)
            self.close_connection = True
            return
        for pattern, method in self.ROUTES:
            match = re.fullmatch(pattern, f"{self.command} {path}")
            if match:
                getattr(self, method)(body, *match.groups())
                return
        self.answer(404)

    do_GET = do_HEAD = do_POST = do_PUT = handle_any  # noqa: N815 (their names are Python's)

    ROUTES = (
        (r"GET /api/models/([^/]+/[^/]+)(?:/revision/(.+))?", "info"),
        (r"POST /api/repos/create", "create"),
        (r"POST /api/validate-yaml", "validate"),
        (r"POST /api/models/([^/]+/[^/]+)/preupload/main", "preupload"),
        (r"POST /([^/]+/[^/]+)\.git/info/lfs/objects/batch", "batch"),
        (r"PUT /store/(\w+)", "store"),
        (r"POST /api/models/([^/]+/[^/]+)/commit/main", "commit"),
        (r"(?:GET|HEAD) /([^/]+/[^/]+)/resolve/([^/]+)/(.+)", "resolve"),
    )

    @property
    def known(self):
        return self.headers.get("Authorization") == f"Bearer {TOKEN}"

    def visible(self, repo):
        entry = self.hub.repos.get(repo)
        if entry is not None and (self.known or not entry["private"]):
            return True
        # The hub's answer is the same for what is not there and for what you may not see.
        self.answer(401 if not self.known else 404, error="RepoNotFound")
        return False

    def may_write(self):
        if self.known:
            return True
        given = self.headers.get("Authorization")
        self.answer(403 if given else 401, {"error": "You may not write here"})
        return False

    def info(self, _body, repo, revision):
        if not self.visible(repo):
            return
        found = self.hub.files(repo, revision or "main") if self.hub.repos[repo]["commits"] else ("0" * 40, {})
        if found is None:
            self.answer(404, error="RevisionNotFound")
            return
        siblings = []
        for name, content in found[1].items():
            entry = {"rfilename": name, "size": len(content), "blobId": "0" * 40}
            if name.endswith(".safetensors"):
                digest = hashlib.sha256(content).hexdigest()
                entry["lfs"] = {"sha256": digest, "size": len(content), "pointerSize": 130}
            siblings.append(entry)
        self.answer(200, {"id": repo, "modelId": repo, "sha": found[0], "siblings": siblings})

    def create(self, body):
        if not self.may_write():
            return
        wanted = json.loads(body)
        name = f"{wanted['organization']}/{wanted['name']}"
        private = wanted["visibility"] == "private"
        self.hub.repos[name] = {"private": private, "commits": []}
        self.answer(200, {"url": f"{self.hub.endpoint}/{name}", "name": name})

    def validate(self, body):
        text = json.loads(body)["content"]
        errors = [] if text.startswith("---\nlibrary_name:") else [{"message": "no metadata"}]
        self.answer(400 if errors else 200, {"errors": errors, "warnings": []})

    def preupload(self, body, repo):
        if not self.may_write():
            return
        commits = self.hub.repos[repo]["commits"]
        before = commits[-1][1] if commits else {}
        answers = []
        for file in json.loads(body)["files"]:
            name = file["path"]
            large = name.endswith(".safetensors")
            content = before.get(name)
            entry = {"path": name, "uploadMode": "lfs" if large else "regular", "shouldIgnore": False}
            if content is not None:
                git = hashlib.sha1(f"blob {len(content)}\0".encode() + content)  # noqa: S324 (as git's)
                entry["oid"] = hashlib.sha256(content).hexdigest() if large else git.hexdigest()
            answers.append(entry)
        self.answer(200, {"files": answers})

    def batch(self, body, _repo):
        if not self.may_write():
            return
        objects = [
            {
                "oid": one["oid"],
                "size": one["size"],
                "actions": {"upload": {"href": f"{self.hub.endpoint}/store/{one['oid']}", "header": {}}},
            }
            for one in json.loads(body)["objects"]
        ]
        self.answer(200, {"transfer": "basic", "objects": objects})

    def store(self, body, oid):
        good = hashlib.sha256(body).hexdigest() == oid
        if good:
            self.hub.blobs[oid] = body
        self.answer(200 if good else 422)

    def commit(self, body, repo):
        if not self.may_write():
            return
        files = {}
        for line in body.splitlines():
            entry = json.loads(line)
            value = entry["value"]
            if entry["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif entry["key"] == "lfsFile":
                files[value["path"]] = self.hub.blobs[value["oid"]]
        oid = self.hub.put(repo, files)
        self.answer(200, {"commitUrl": f"{self.hub.endpoint}/{repo}/commit/{oid}", "commitOid": oid})

    def resolve(self, _body, repo, revision, name):
        if not self.visible(repo):
            return
        found = self.hub.files(repo, revision)
        if found is None or name not in found[1]:
            self.answer(404, error="RevisionNotFound" if found is None else "EntryNotFound")
            return
        content = found[1][name]
        tag = f'"{hashlib.sha256(content).hexdigest()}"'
        if self.hub.corrupt:
            content = content[:-1] + bytes([content[-1] ^ 1])
        self.answer(200, content, ETag=tag, X_Repo_Commit=found[0], X_Linked_Size=str(len(content)))


@contextmanager
def standing_in():
    """A hub on this machine, as long as the block runs."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    server.daemon_threads = True
    server.hub = hub = Hub()
    hub.endpoint = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        hub.released.set()
        server.shutdown()
        server.server_close()
        thread.join()
