"""The how-to of interchange, run as it stands, on a photograph."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cascade_kp.data.readers import read_samples

PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "interchange.md"


def test_the_how_to(tmp_path, monkeypatch):
    if not PAGE.is_file():
        pytest.skip("needs the checkout's documentation: python -m pytest in its root")
    pytest.importorskip("supervision")
    pytest.importorskip("menpo")
    data = pytest.importorskip("skimage.data")
    monkeypatch.chdir(tmp_path)
    Path("photos").mkdir()
    photo = np.asarray(data.astronaut())
    Image.fromarray(photo).save("photos/astronaut.png")
    names = {"__name__": "page"}
    for text in re.findall(r"^```python\n(.*?)^```$", PAGE.read_text("utf-8"), re.MULTILINE | re.DOTALL):
        exec(compile(text, str(PAGE), "exec"), names)  # noqa: S102 (our own page)
    [(_, [face])] = names["results"]
    [(_, [same])] = names["same"]
    np.testing.assert_allclose(same.keypoints, face.keypoints, atol=1e-3)
    for path in ("faces.json", "faces.csv"):
        np.testing.assert_allclose(read_samples(path, "ibug68").keypoints[0], face.keypoints, atol=1e-3)
    assert (names["picture"] != photo[:, :, ::-1]).any()
    assert names["left_eye"].n_points == len(face["left_eye"])
    np.testing.assert_allclose(names["again"].keypoints, face.keypoints, atol=1e-4)
    assert names["frame"]["mouth_px"][0] > 0
