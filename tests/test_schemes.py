from __future__ import annotations

import copy
import csv
import dataclasses
import json
import pickle
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import schemes

from cascade_kp.errors import SchemeError
from cascade_kp.schemes import Scheme, available_schemes, convert, load_scheme

NAMES = ("left_eye", "right_eye", "nose")

# The 300-W flip as published in common toolboxes, typed in from the picture of the markup (1-based pairs).
IBUG_PAIRS = [
    *((i, 18 - i) for i in range(1, 9)),  # the outline, 1-17
    *((i, 45 - i) for i in range(18, 23)),  # brows 18-27
    *((32, 36), (33, 35)),  # nostrils
    *((37, 46), (38, 45), (39, 44), (40, 43), (41, 48), (42, 47)),  # eyes
    *((49, 55), (50, 54), (51, 53), (56, 60), (57, 59)),  # outer lips
    *((61, 65), (62, 64), (66, 68)),  # inner lips
]


def write(tmp_path, text):
    path = tmp_path / "own.toml"
    path.write_text(text, encoding="utf-8")
    return path


class TestEmbedded:
    def test_names_and_sizes(self):
        assert available_schemes() == ("ibug51", "ibug68", "kaggle15", "nose5", "nose7", "nose9")
        assert [len(load_scheme(name)) for name in available_schemes()] == [51, 68, 15, 5, 7, 9]
        assert all(load_scheme(name).name == name for name in available_schemes())

    def test_ibug68_regions(self):
        regions = load_scheme("ibug68").regions
        assert dict(regions) == {
            "jaw": tuple(range(17)),
            "right_eye": (*range(17, 22), *range(36, 42)),
            "left_eye": (*range(22, 27), *range(42, 48)),
            "nose": tuple(range(27, 36)),
            "mouth": tuple(range(48, 68)),
        }

    def test_ibug68_flip_is_the_published_one(self):
        expected = list(range(68))
        for i, j in IBUG_PAIRS:
            expected[i - 1], expected[j - 1] = j - 1, i - 1
        assert load_scheme("ibug68").flip == tuple(expected)

    def test_ibug68_eyes(self):
        scheme = load_scheme("ibug68")
        assert scheme.inter_ocular == (36, 45)
        assert scheme.inter_pupil == (tuple(range(36, 42)), tuple(range(42, 48)))
        assert (scheme.index("right_eye_outer_corner"), scheme.index("left_eye_outer_corner")) == (36, 45)
        assert (scheme.index("mouth_right_corner"), scheme.index("mouth_left_corner")) == (48, 54)
        assert scheme.index("chin") == 8

    def test_ibug51_is_ibug68_without_the_jaw(self):
        whole, part = load_scheme("ibug68"), load_scheme("ibug51")
        assert part.keypoints == whole.keypoints[17:]
        assert part.flip == tuple(i - 17 for i in whole.flip[17:])
        assert dict(part.regions) == {
            name: tuple(i - 17 for i in indices) for name, indices in whole.regions.items() if name != "jaw"
        }
        assert part.inter_ocular == (19, 28)
        assert part.edges == tuple((a - 17, b - 17) for a, b in whole.edges if a >= 17)

    def test_kaggle15(self):
        scheme = load_scheme("kaggle15")
        assert "jaw" not in scheme.regions
        assert sum(map(len, scheme.regions.values())) == 15
        assert scheme.inter_ocular == (scheme.index("right_eye_outer_corner"), scheme.index("left_eye_outer_corner"))
        assert scheme.inter_pupil == ((1,), (0,))

    def test_kaggle15_has_the_columns_of_the_competition(self, shared_data):
        with (shared_data / "kaggle" / "facial_keypoints.csv").open(encoding="utf-8") as file:
            header = next(csv.reader(file))
        assert header == [f"{name}_{axis}" for name in load_scheme("kaggle15").keypoints for axis in "xy"]

    def test_left_and_right_are_the_subjects(self, shared_data):
        # In a frontal picture the subject's left is on the right of the picture.
        text = (shared_data / "300w" / "afw" / "134212_1.pts").read_text()
        points = np.array(text.split("{")[1].split("}")[0].split(), float).reshape(-1, 2)
        scheme = load_scheme("ibug68")
        assert points[list(scheme.region("right_eye")), 0].mean() < points[list(scheme.region("left_eye")), 0].mean()


class TestProof:
    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"keypoints": ()}, "non-empty list"),
            ({"keypoints": ("a", "a", "b")}, "unique.*'a'"),
            ({"keypoints": ("a", "", "b")}, "non-empty string"),
            ({"keypoints": "abc"}, "non-empty list"),
            ({"name": " "}, "non-empty string"),
            ({"regions": {"eyes": (0, 1), "face": (1, 2)}}, "'right_eye'.*'eyes'.*'face'.*ambiguous"),
            ({"regions": {"eyes": ()}}, "no keypoints"),
            ({"regions": {"eyes": (0, 3)}}, "0 to 2, got 3"),
            ({"regions": {"eyes": (0, -1)}}, "0 to 2, got -1"),
            ({"regions": {"eyes": (0, True)}}, "got True"),
            ({"regions": {"eyes": (0, 1.0)}}, "whole numbers, got 1.0"),
            ({"regions": {"the.eyes": (0, 1)}}, "'the.eyes'"),
            ({"regions": {"one": (0,)}}, "map region 'one' onto one region"),
            ({"regions": {"left_part": (0,), "other": (1,)}}, "onto region 'right_part', but it lands on 'other'"),
            ({"regions": (0, 1)}, "map names to indices, got tuple"),
            ({"flip": (1, 0)}, "one index per keypoint, 3, got 2"),
            ({"flip": (1, 2, 0)}, "undo itself"),
            ({"flip": (0, 1, 2)}, "must send 'left_eye' to 'right_eye'"),
            ({"flip": (2, 1, 0)}, "must send 'left_eye' to 'right_eye'"),
            ({"keypoints": ("left_eye", "nose")}, "no mirror partner 'right_eye'"),
            ({"inter_ocular": (0, 0)}, "two different"),
            ({"inter_ocular": (0, 1, 2)}, "two different"),
            ({"inter_ocular": (0, 9)}, "0 to 2, got 9"),
            ({"inter_pupil": ((0,), ())}, "at least one keypoint each"),
            ({"inter_pupil": ((0,),)}, "two different groups"),
            ({"inter_pupil": (0, 1)}, "list of indices, got 0"),
            ({"edges": ((0, 0),)}, "two different"),
            ({"edges": ((0, 1, 2),)}, "two different"),
            ({"edges": 3}, "list of lists"),
        ],
    )
    def test_refuses(self, change, message):
        with pytest.raises(SchemeError, match=message):
            Scheme(**({"name": "s", "keypoints": NAMES} | change))

    def test_names_imply_the_flip(self):
        names = ("mouth_left_corner", "chin", "mouth_right_corner", "leftover")
        assert Scheme("s", names).flip == (2, 1, 0, 3)

    def test_flip_can_pair_names_without_a_side(self):
        assert Scheme("s", ("a", "b", "c"), flip=(1, 0, 2)).flip == (1, 0, 2)

    def test_lists_become_tuples_and_numpy_indices_plain(self):
        scheme = Scheme("s", list(NAMES), regions={"eyes": np.array([0, 1])}, edges=[[0, 1]])
        assert scheme.keypoints == NAMES
        assert scheme.regions["eyes"] == (0, 1)
        assert all(type(i) is int for i in scheme.regions["eyes"])
        assert scheme.edges == ((0, 1),)

    def test_immutable_also_against_the_callers_dict(self):
        regions = {"eyes": (0, 1)}
        scheme = Scheme("s", NAMES, regions=regions)
        regions["nose"] = (2,)
        assert list(scheme.regions) == ["eyes"]
        with pytest.raises(TypeError):
            scheme.regions["nose"] = (2,)
        with pytest.raises(dataclasses.FrozenInstanceError):
            scheme.name = "t"


class TestLookups:
    def test_unknown_region_names_the_known_and_the_nearest(self):
        with pytest.raises(SchemeError, match=r"'left_eyes' \(did you mean 'left_eye'\?\).*jaw, right_eye, left_eye"):
            load_scheme("ibug68").region("left_eyes")

    def test_unknown_keypoint_names_the_nearest(self):
        with pytest.raises(SchemeError, match="did you mean 'nose_tip'"):
            load_scheme("kaggle15").index("nose_tipp")

    @given(schemes())
    def test_index_finds_every_name(self, scheme):
        assert [scheme.index(name) for name in scheme.keypoints] == list(range(len(scheme)))

    @given(schemes())
    def test_flip_region_says_where_the_points_of_a_mirrored_region_are(self, scheme):
        width = 100.0
        points = np.random.default_rng(0).uniform(0, width, (len(scheme), 2))
        mirrored = (points * [-1, 1] + [width, 0])[list(scheme.flip)]  # the whole face of the mirrored picture
        for region in scheme.regions:
            partner, p = scheme.flip_region(region)
            local = points[list(scheme.region(region))] * [-1, 1] + [width, 0]
            np.testing.assert_array_equal(mirrored[list(scheme.region(partner))], local[list(p)])

    @given(schemes())
    def test_flip_region_twice_is_identity(self, scheme):
        for region in scheme.regions:
            partner, p = scheme.flip_region(region)
            back, q = scheme.flip_region(partner)
            assert back == region
            assert [p[i] for i in q] == list(range(len(p)))

    def test_flip_region_by_hand(self):
        # left ear: points 0, 3 (outer, inner); right ear: 4, 1 (inner, outer): the order is turned round.
        names = ("left_outer", "right_outer", "nose", "left_inner", "right_inner")
        scheme = Scheme("s", names, regions={"left_ear": (0, 3), "right_ear": (4, 1), "nose": (2,)})
        assert scheme.flip_region("left_ear") == ("right_ear", (1, 0))
        assert scheme.flip_region("nose") == ("nose", (0,))


class TestRoundTrips:
    @given(schemes())
    def test_dict_through_json(self, scheme):
        again = Scheme.from_dict(json.loads(json.dumps(scheme.to_dict())))
        assert again == scheme
        assert list(again.regions) == list(scheme.regions)
        assert again.to_dict() == scheme.to_dict()

    @given(schemes())
    def test_pickle_copy_hash(self, scheme):
        for again in (pickle.loads(pickle.dumps(scheme)), copy.deepcopy(scheme)):  # noqa: S301 - our own bytes
            assert again == scheme
            assert hash(again) == hash(scheme)

    def test_differences_are_seen(self):
        scheme = load_scheme("ibug68")
        assert scheme != dataclasses.replace(scheme, edges=())
        assert scheme != dataclasses.replace(scheme, regions={})

    @pytest.mark.parametrize(
        ("data", "message"),
        [
            ({"name": "s", "keypoints": ["a"], "region": {}}, "unknown key 'region' .did you mean 'regions'"),
            ({"name": "s"}, "'keypoints' is missing; found: name"),
            ({"name": 3, "keypoints": ["a"]}, "non-empty string, got 3"),
            ({"name": "s", "keypoints": ["a", 2]}, "got 2"),
            ({"name": "s", "keypoints": ["a"], "flip": "a"}, "list of indices, got 'a'"),
            ({"name": "s", "keypoints": ["a"], "regions": [0]}, "got list"),
            ([], "mapping of fields, got list"),
        ],
    )
    def test_from_dict_refuses(self, data, message):
        with pytest.raises(SchemeError, match=message):
            Scheme.from_dict(data)


class TestToml:
    def test_all_of_the_format(self, tmp_path):
        path = write(
            tmp_path,
            """
            name = "own"
            keypoints = ["a", "b", "left_eye", "right_eye", "tip"]
            flip = [["a", "b"]]
            inter_ocular = ["left_eye", "right_eye"]
            inter_pupil = [["left_eye"], ["right_eye"]]
            edges = [["a", "tip", "b", "a"]]
            [regions]
            nose = ["a", "b", "tip"]
            """,
        )
        scheme = load_scheme(path)
        assert scheme == load_scheme(str(path))
        assert scheme.flip == (1, 0, 3, 2, 4)  # a, b as the file says, the eyes from their names
        assert scheme.inter_ocular == (2, 3)
        assert scheme.inter_pupil == ((2,), (3,))
        assert scheme.edges == ((0, 4), (4, 1), (1, 0))
        assert dict(scheme.regions) == {"nose": (0, 1, 4)}

    def test_the_least(self, tmp_path):
        scheme = load_scheme(write(tmp_path, 'name = "own"\nkeypoints = ["tip"]'))
        assert (len(scheme), dict(scheme.regions), scheme.inter_ocular, scheme.edges) == (1, {}, None, ())

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ('name = "s"', "'keypoints' is missing"),
            ("name = ", "own.toml: "),
            ('name = "s"\nkeypoints = ["a"]\nkeypoint = 1', "unknown key 'keypoint'.*'keypoints'"),
            ('name = "s"\nkeypoints = ["tip"]\n[regions]\nnose = ["tap"]', "region 'nose': no keypoint 'tap'.*'tip'"),
            ('name = "s"\nkeypoints = ["tip"]\n[regions]\nnose = "tip"', "list of keypoint names, got 'tip'"),
            ('name = "s"\nkeypoints = ["tip"]\nregions = 4', "must be a table"),
            ('name = "s"\nkeypoints = ["tip"]\nedges = [["tip"]]', "at least two"),
            ('name = "s"\nkeypoints = ["tip"]\nedges = "tip"', "list of lists"),
            ('name = "s"\nkeypoints = ["a", "b"]\nflip = [["a", "b"], ["b", "a"]]', "each named once"),
            ('name = "s"\nkeypoints = ["a", "b"]\nflip = [["a"]]', "pairs"),
            ('name = "s"\nkeypoints = ["a", "b"]\ninter_ocular = ["a"]', "two different"),
        ],
    )
    def test_refuses_naming_the_file(self, tmp_path, text, message):
        with pytest.raises(SchemeError, match=message) as caught:
            load_scheme(write(tmp_path, text))
        assert "own.toml" in str(caught.value)

    def test_missing_file(self, tmp_path):
        with pytest.raises(SchemeError, match=r"no.toml: cannot read"):
            load_scheme(tmp_path / "no.toml")

    def test_unknown_name(self):
        with pytest.raises(SchemeError, match=r"'ibug86'.*did you mean 'ibug68'.*ibug51, ibug68, kaggle15"):
            load_scheme("ibug86")


class TestConvert:
    def test_ibug68_to_kaggle15_by_hand(self):
        # Point i lies at (i, 10 i): a mean of points is the mean of their indices.
        points = np.arange(68.0)[:, None] * [1, 10]
        got = convert(points, load_scheme("ibug68"), load_scheme("kaggle15"))
        # left eye 42-47 -> 44.5, right eye 36-41 -> 38.5; inner/outer corners left 42/45, right 39/36;
        # brows inner/outer left 22/26, right 21/17; tip 30; mouth left 54, right 48, top 51, bottom 57.
        expected = [44.5, 38.5, 42, 45, 39, 36, 22, 26, 21, 17, 30, 54, 48, 51, 57]
        np.testing.assert_allclose(got, np.array(expected)[:, None] * [1, 10])

    def test_by_way_of_ibug51_is_the_same(self):
        points = np.random.default_rng(0).normal(size=(3, 4, 68, 2)).astype(np.float32)
        whole, part, kaggle = (load_scheme(name) for name in ("ibug68", "ibug51", "kaggle15"))
        inner = convert(points, whole, part)
        np.testing.assert_array_equal(inner, points[:, :, 17:])
        got = convert(inner, part, kaggle)
        assert got.dtype == np.float32
        np.testing.assert_array_equal(got, convert(points, whole, kaggle))

    @given(schemes())
    def test_identity_is_a_copy(self, scheme):
        points = np.arange(2.0 * len(scheme)).reshape(-1, 2)
        got = convert(points, scheme, scheme)
        np.testing.assert_array_equal(got, points)
        assert not np.shares_memory(got, points)

    @given(st.sampled_from(["ibug51", "kaggle15"]))
    def test_commutes_with_flip(self, name):
        source, target = load_scheme("ibug68"), load_scheme(name)
        points = np.random.default_rng(1).normal(size=(68, 2))
        flipped = convert(points[list(source.flip)], source, target)
        np.testing.assert_allclose(flipped, convert(points, source, target)[list(target.flip)])

    def test_missing_points_stay_missing(self):
        points = np.ones((68, 2))
        points[37] = np.nan  # one of the six of the right eye
        got = convert(points, load_scheme("ibug68"), load_scheme("kaggle15"))
        assert np.flatnonzero(np.isnan(got).any(axis=1)).tolist() == [1]

    def test_whole_numbers_become_float(self):
        assert convert(np.zeros((68, 2), int), load_scheme("ibug68"), load_scheme("ibug51")).dtype == np.float64

    def test_refuses(self):
        ibug, kaggle = load_scheme("ibug68"), load_scheme("kaggle15")
        with pytest.raises(SchemeError, match=r"'ibug68' must be \(\.\.\., 68, 2\), got \(15, 2\)"):
            convert(np.zeros((15, 2)), ibug, kaggle)
        with pytest.raises(SchemeError, match=r"cannot convert 'kaggle15' to 'ibug68'.*right_jaw_1.* and .* more"):
            convert(np.zeros((15, 2)), kaggle, ibug)


def test_importing_schemes_does_not_import_torch():
    code = "import sys, cascade_kp.schemes, cascade_kp.metrics, cascade_kp.formats; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_region_of_one_side_does_not_hold_the_other_sides_points():
    with pytest.raises(SchemeError, match=r"region 'left_r' holds 'right_a'; left and right are the subject's"):
        Scheme("turned", ("left_a", "right_a", "tip"), {"left_r": (1,), "right_r": (0,)})
