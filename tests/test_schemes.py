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
from cascade_kp.schemes import Scheme, as_scheme, available_schemes, convert, derive_flip, load_scheme, sources

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


KEYS = "name, keypoints, regions, flip, inter_ocular, inter_pupil, edges"
NO_REGION = "no region has exactly the flipped points"
AMBIGUOUS = "a point may be refined by one specialist only, or putting the refined points back would be ambiguous"
EVERY_LEFT = "every left point needs its right one, or mirrored faces could not be named"


def refusal(function, *args, **kwargs):
    """All that a user reads."""
    with pytest.raises(SchemeError) as caught:
        function(*args, **kwargs)
    return str(caught.value)


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
            ({"keypoints": ()}, "keypoints must be a non-empty list of names, got ()"),
            ({"keypoints": "abc"}, "keypoints must be a non-empty list of names, got 'abc'"),
            ({"keypoints": ("a", "a", "b")}, "keypoint names must be unique, 'a' comes twice"),
            *(
                (
                    {"keypoints": ("a", name)},
                    f"a keypoint name must be a non-empty string without blanks around it, got {name!r}",
                )
                for name in ("", " b", "b ", 2)
            ),
            (
                {"keypoints": ("left_eye", "nose")},
                f"keypoint 'left_eye' has no mirror partner 'right_eye'; {EVERY_LEFT}",
            ),
            (
                {"keypoints": ("left_eye", "right_eyes")},
                f"keypoint 'left_eye' has no mirror partner 'right_eye' (did you mean 'right_eyes'?); {EVERY_LEFT}",
            ),
            ({"regions": (0, 1)}, "regions must map names to indices, got tuple"),
            ({"regions": {"eyes": ()}}, "region 'eyes' has no keypoints; leave it out"),
            ({"regions": {"eyes": "01"}}, "region 'eyes' must be a list of indices, got '01'"),
            ({"regions": {"eyes": 3}}, "region 'eyes' must be a list of indices, got 3"),
            ({"regions": {"eyes": (0, 3)}}, "region 'eyes' must hold indices from 0 to 2, got 3"),
            ({"regions": {"eyes": (0, -1)}}, "region 'eyes' must hold indices from 0 to 2, got -1"),
            ({"regions": {"eyes": (0, True)}}, "region 'eyes' must hold indices from 0 to 2, got True"),
            ({"regions": {"eyes": (0, 1.0)}}, "region 'eyes' must hold whole numbers, got 1.0"),
            *(
                ({"regions": {name: (0, 1)}}, f"a region name must be of letters, digits, '_' and '-', got {name!r}")
                for name in ("the.eyes", "", 3)
            ),
            (
                {"regions": {"eyes": (0, 1), "face": (1, 2)}},
                f"keypoint 'right_eye' is in region 'eyes' and again in 'face'; {AMBIGUOUS}",
            ),
            (
                {"regions": {"one": (0,)}},
                f"flip must map region 'one' onto one region, but {NO_REGION}",
            ),
            (
                {"regions": {"left_part": (0,)}},
                f"flip must map region 'left_part' onto region 'right_part', but {NO_REGION}",
            ),
            (
                {"regions": {"left_part": (0,), "other": (1,)}},
                "flip must map region 'left_part' onto region 'right_part', but it lands on 'other'",
            ),
            ({"flip": (1, 0)}, "flip must have one index per keypoint, 3, got 2"),
            ({"flip": (1, 0, 3)}, "flip must hold indices from 0 to 2, got 3"),
            (
                {"flip": (1, 2, 0)},
                "flip must undo itself, but it sends 'left_eye' to 'right_eye' and that to 'nose'",
            ),
            ({"flip": (0, 1, 2)}, "flip must send 'left_eye' to 'right_eye', but sends it to 'left_eye'"),
            ({"flip": (2, 1, 0)}, "flip must send 'left_eye' to 'right_eye', but sends it to 'nose'"),
            *(
                ({"inter_ocular": pair}, f"inter_ocular must be two different keypoints, got {pair}")
                for pair in ((0, 0), (0, 1, 2), (0,))
            ),
            ({"inter_ocular": (0, 9)}, "inter_ocular must hold indices from 0 to 2, got 9"),
            *(
                (
                    {"inter_pupil": groups},
                    f"inter_pupil must be two different groups of at least one keypoint each, got {groups}",
                )
                for groups in (((0,), ()), ((0,),), ((0, 1), (1, 0)), ((0,), (1,), (2,)))
            ),
            ({"inter_pupil": (0, 1)}, "an entry of inter_pupil must be a list of indices, got 0"),
            ({"inter_pupil": "01"}, "inter_pupil must be a list of lists of indices, got '01'"),
            ({"edges": 3}, "edges must be a list of lists of indices, got 3"),
            ({"edges": {"a": (0, 1)}}, "edges must be a list of lists of indices, got {'a': (0, 1)}"),
            *(
                ({"edges": (edge,)}, f"an edge must join two different keypoints, got {edge}")
                for edge in ((0, 0), (0, 1, 2))
            ),
        ],
    )
    def test_refuses(self, change, message):
        assert refusal(Scheme, **({"name": "s", "keypoints": NAMES} | change)) == f"scheme 's': {message}"

    @pytest.mark.parametrize("name", ["", " ", 3, None])
    def test_refuses_names(self, name):
        assert refusal(Scheme, name, NAMES) == f"the name of a scheme must be a non-empty string, got {name!r}"

    def test_derive_flip_by_itself(self):
        assert derive_flip(["left_a", "b", "right_a", "c"]) == (2, 1, 0, 3)
        assert derive_flip(["a", "b", "left_c", "right_c"], {0: 1, 1: 0}) == (1, 0, 3, 2)
        message = f"scheme '': keypoint 'left_a' has no mirror partner 'right_a'; {EVERY_LEFT}"
        assert refusal(derive_flip, ["left_a"]) == message

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

    def test_every_field_may_be_a_list(self):
        fields = {"flip": (1, 0, 2), "inter_ocular": (0, 1), "inter_pupil": ((0,), (1,)), "edges": ((0, 1), (1, 2))}
        scheme = Scheme("s", NAMES, **fields)
        again = Scheme("s", list(NAMES), **json.loads(json.dumps(fields)))
        assert again == scheme
        assert hash(again) == hash(scheme)
        assert dataclasses.asdict(again) | fields == dataclasses.asdict(scheme)

    def test_in_words(self):
        assert str(Scheme("s", NAMES)) == "s (3 keypoints; no regions)"
        scheme = Scheme("s", NAMES, regions={"eyes": (0, 1), "nose": (2,)})
        assert str(scheme) == "s (3 keypoints; eyes 2, nose 1)"
        assert repr(scheme.regions) == "{'eyes': (0, 1), 'nose': (2,)}"

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
    @pytest.mark.parametrize(
        ("regions", "name", "message"),
        [
            ({"eyes": (0, 1), "nose": (2,)}, "eye", "no region 'eye' (did you mean 'eyes'?); its regions: eyes, nose"),
            ({"eyes": (0, 1), "nose": (2,)}, 3, "no region 3; its regions: eyes, nose"),
            ({}, "eye", "no region 'eye'; its regions: none"),
        ],
    )
    def test_unknown_region_names_the_known_and_the_nearest(self, regions, name, message):
        scheme = Scheme("s", NAMES, regions=regions)
        assert refusal(scheme.region, name) == refusal(scheme.flip_region, name) == f"scheme 's': {message}"

    def test_unknown_keypoint_names_the_nearest(self):
        scheme = Scheme("s", NAMES)
        assert refusal(scheme.index, "noose") == "scheme 's': no keypoint 'noose' (did you mean 'nose'?)"
        assert refusal(scheme.index, "chin") == "scheme 's': no keypoint 'chin'"

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
            (
                {"name": "s", "keypoints": ["a"], "region": {}},
                f"scheme: unknown key 'region' (did you mean 'regions'?); keys: {KEYS}",
            ),
            ({"name": "s", "keypoints": ["a"], 7: {}}, f"scheme: unknown key 7; keys: {KEYS}"),
            ({"name": "s", "edges": []}, "scheme: the key 'keypoints' is missing; found: name, edges"),
            ({"keypoints": ["a"]}, "scheme: the key 'name' is missing; found: keypoints"),
            ({}, "scheme: the key 'name' is missing; found: nothing"),
            ({"name": "s", "keypoints": ["a"], "flip": "a"}, "scheme 's': flip must be a list of indices, got 'a'"),
            (
                {"name": "s", "keypoints": ["a"], "regions": [0]},
                "scheme 's': regions must map names to indices, got list",
            ),
            ([], "a scheme must be a mapping of fields, got list"),
        ],
    )
    def test_from_dict_refuses(self, data, message):
        assert refusal(Scheme.from_dict, data) == message


def test_more_regions_than_can_be_compared_with_each_other_are_refused():
    names = tuple(f"k{i}" for i in range(257))
    with pytest.raises(SchemeError, match="expected at most 256 regions, got 257"):
        Scheme("many", names, {f"r{i}": (i,) for i in range(257)})
    assert len(Scheme("many", names, {f"r{i}": (i,) for i in range(256)}).regions) == 256


class TestToml:
    def test_all_of_the_format(self, tmp_path):
        path = write(
            tmp_path,
            """
            name = "own"
            keypoints = ["a", "b", "left_eye", "right_eye", "tip", "c", "d"]
            flip = [["a", "b"], ["d", "c"]]
            inter_ocular = ["left_eye", "right_eye"]
            inter_pupil = [["left_eye"], ["right_eye"]]
            edges = [["a", "tip", "b", "a"], ["left_eye", "right_eye"]]
            [regions]
            nose = ["a", "b", "tip"]
            """,
        )
        scheme = load_scheme(path)
        assert scheme == load_scheme(str(path))
        assert scheme.flip == (1, 0, 3, 2, 4, 6, 5)  # a, b and c, d as the file says, the eyes from their names
        assert scheme.inter_ocular == (2, 3)
        assert scheme.inter_pupil == ((2,), (3,))
        assert scheme.edges == ((0, 4), (4, 1), (1, 0), (2, 3))
        assert dict(scheme.regions) == {"nose": (0, 1, 4)}

    def test_the_least(self, tmp_path):
        scheme = load_scheme(write(tmp_path, 'name = "own"\nkeypoints = ["tip"]'))
        assert (len(scheme), dict(scheme.regions), scheme.inter_ocular, scheme.edges) == (1, {}, None, ())

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ('keypoints = ["a"]', "scheme file: the key 'name' is missing; found: keypoints"),
            (
                'name = "s"\nkeypoint = 1',
                f"scheme file: unknown key 'keypoint' (did you mean 'keypoints'?); keys: {KEYS}",
            ),
            ("name = ", "Invalid value (at end of document)"),
            ('name = 3\nkeypoints = ["a"]', "the name of a scheme must be a non-empty string, got 3"),
            (
                'name = "s"\nkeypoints = ["left_a"]',
                f"scheme 's': keypoint 'left_a' has no mirror partner 'right_a'; {EVERY_LEFT}",
            ),
            *(
                (f'name = "s"\nkeypoints = ["tip", "a", "b"]\n{line}', message)
                for line, message in (
                    ('[regions]\nnose = ["tap"]', "region 'nose': no keypoint 'tap' (did you mean 'tip'?)"),
                    ("[regions]\nnose = [1]", "region 'nose': no keypoint 1"),
                    ('[regions]\nnose = "tip"', "region 'nose' must be a list of keypoint names, got 'tip'"),
                    ("regions = 4", "regions must be a table of lists of keypoint names, got 4"),
                    ('edges = "tip"', "edges must be a list of lists of keypoint names, got 'tip'"),
                    ('edges = [["tap"]]', "edges: no keypoint 'tap' (did you mean 'tip'?)"),
                    ('edges = [["tip"]]', "edges: a path must join at least two keypoints, got 1"),
                    ('inter_ocular = ["a"]', "scheme 's': inter_ocular must be two different keypoints, got (1,)"),
                    ('inter_ocular = ["c"]', "inter_ocular: no keypoint 'c'"),
                    ("inter_pupil = 3", "inter_pupil must be a list of lists of keypoint names, got 3"),
                    ('inter_pupil = [["c"]]', "inter_pupil: no keypoint 'c'"),
                    ("flip = [3]", "flip must be a list of keypoint names, got 3"),
                )
            ),
            *(
                (
                    f'name = "s"\nkeypoints = ["tip", "a", "b"]\nflip = {[*before, pair]}',
                    f"flip must be pairs of two different keypoints, each named once, got {pair}",
                )
                for before, pair in (
                    ([["a", "b"]], ["b", "a"]),
                    ([["a", "b"]], ["tip", "a"]),
                    ([], ["a"]),
                    ([], ["a", "a"]),
                    ([], ["a", "b", "a"]),
                    ([], ["a", "b", "tip"]),
                )
            ),
        ],
    )
    def test_refuses_naming_the_file(self, tmp_path, text, message):
        path = write(tmp_path, text)
        assert refusal(load_scheme, path) == f"{path}: {message}"

    def test_a_mark_of_the_byte_order_and_other_letters(self, tmp_path):
        path = tmp_path / "own.toml"
        path.write_bytes(b"\xef\xbb\xbf" + 'name = "Näschen"\nkeypoints = ["鼻"]'.encode())
        scheme = load_scheme(path)
        assert (scheme.name, scheme.keypoints) == ("Näschen", ("鼻",))

    def test_a_file_that_cannot_be_read(self, tmp_path):
        assert refusal(load_scheme, tmp_path / "no.toml").startswith(
            f"{tmp_path / 'no.toml'}: cannot read the scheme file: "
        )
        path = tmp_path / "own.TOML"
        path.write_bytes(b'name = "\xff"')
        assert refusal(load_scheme, str(path)).startswith(f"{path}: cannot read the scheme file: ")

    def test_unknown_name(self):
        known = "embedded schemes: ibug51, ibug68, kaggle15, nose5, nose7, nose9; one's own is a path ending in .toml"
        assert refusal(load_scheme, "ibug86") == f"unknown scheme 'ibug86' (did you mean 'ibug68'?); {known}"
        assert refusal(load_scheme, "wflw") == f"unknown scheme 'wflw'; {known}"

    def test_a_scheme_or_what_names_it(self, tmp_path):
        scheme = load_scheme("nose5")
        assert as_scheme(scheme) is scheme
        assert as_scheme("nose5") == scheme
        path = write(tmp_path, 'name = "own"\nkeypoints = ["tip"]')
        assert as_scheme(path) == as_scheme(str(path)) == Scheme("own", ("tip",))


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

    @pytest.mark.parametrize("kind", [int, object])  # a table of several types gives objects
    def test_other_numbers_become_float(self, kind):
        got = convert(np.zeros((68, 2), kind), load_scheme("ibug68"), load_scheme("ibug51"))
        assert got.dtype == np.float64

    def test_refuses(self):
        ibug, kaggle = load_scheme("ibug68"), load_scheme("kaggle15")
        for shape in ((15, 2), (68, 3), (2,), ()):
            message = f"points of 'ibug68' must be (..., 68, 2), got {shape}"
            assert refusal(convert, np.zeros(shape), ibug, kaggle) == message
        first = ", ".join(f"right_jaw_{i}" for i in range(1, 6))
        message = f"cannot convert 'kaggle15' to 'ibug68': the first does not tell {first} and 55 more"
        assert refusal(convert, np.zeros((15, 2)), kaggle, ibug) == message

    @pytest.mark.parametrize(("count", "told"), [(5, "a, b, c, d, e"), (6, "a, b, c, d, e and 1 more")])
    def test_names_the_first_five_that_are_missing(self, count, told):
        target = Scheme("t", tuple("abcdef"[:count]))
        message = f"cannot convert 's' to 't': the first does not tell {told}"
        assert refusal(convert, np.zeros((3, 2)), Scheme("s", NAMES), target) == message

    def test_sources_by_hand(self):
        assert sources(["a", "b"], ["b", "c", "a"]) == [(1,), (), (0,)]
        assert sources(["nose_bridge_4"], ["nose_tip"]) == [(0,)]
        assert sources(["nose_bridge_4", "nose_tip"], ["nose_tip"]) == [(1,)]
        lids = ("upper_lid_outer", "upper_lid_inner", "lower_lid_outer", "lower_lid_inner")
        eye = [f"left_eye_{part}" for part in ("outer_corner", "inner_corner", *lids)]
        assert sources(eye, ["left_eye_center"]) == [(0, 1, 2, 3, 4, 5)]
        assert sources(eye[:5], ["left_eye_center"]) == [()]


def test_importing_schemes_does_not_import_torch():
    code = "import sys, cascade_kp.schemes, cascade_kp.metrics, cascade_kp.formats; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_region_of_one_side_does_not_hold_the_other_sides_points():
    names, message = ("left_a", "right_a", "tip"), "left and right are the subject's, in both names"
    turned = {"left_r": (1,), "right_r": (0,)}
    assert refusal(Scheme, "turned", names, turned) == f"scheme 'turned': region 'left_r' holds 'right_a'; {message}"
    turned = {"right_r": (0,), "left_r": (1,)}
    assert refusal(Scheme, "turned", names, turned) == f"scheme 'turned': region 'right_r' holds 'left_a'; {message}"
