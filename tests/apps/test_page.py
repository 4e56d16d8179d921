"""The page that the demo and its static form share."""

from __future__ import annotations

import json
from html.parser import HTMLParser

from cascade_kp.apps.page import index_html

HOSTILE = "</script><script>window.hacked=1</script><!--<img src=x onerror=window.hacked=2>{{where}}&amp;\u2028'\"é"


class Read(HTMLParser):
    """Tags, and the text in the element called config."""

    def __init__(self, page):
        super().__init__()
        self.tags, self.policies, self.config, self._inside = [], [], "", False
        self.feed(page)
        self.close()

    def handle_starttag(self, tag, attributes):
        values = dict(attributes)
        self.tags.append((tag, tuple(values)))
        self._inside = values.get("id") == "config"
        if values.get("http-equiv") == "Content-Security-Policy":
            self.policies.append(values["content"])

    def handle_endtag(self, _):
        self._inside = False

    def handle_data(self, data):
        self.config += data if self._inside else ""


def test_what_a_model_is_called_becomes_no_markup():
    config = {"backend": "server", "models": [{"name": HOSTILE}]}
    page, policy = index_html(config, HOSTILE)
    plain, _ = index_html({"backend": "server", "models": [{"name": "a"}]}, "b")
    read = Read(page)
    assert json.loads(read.config) == config
    assert read.tags == Read(plain).tags
    assert read.policies == [policy]


def test_what_comes_from_elsewhere_is_named_in_the_policy():
    page, policy = index_html({"backend": "browser", "models": []}, "", ["https://x.example"])
    rules = dict(rule.split(" ", 1) for rule in policy.split("; "))
    assert rules["script-src"] == "'self' https://x.example 'wasm-unsafe-eval'"
    assert rules["default-src"] == rules["form-action"] == rules["base-uri"] == "'none'"
    assert Read(page).policies == [policy]
