"""The whole way from a picture to faces, with the embedded model, on scikit-image's astronaut (public domain)."""

from __future__ import annotations

import dataclasses
import gc
import json
import math
import threading
import time
import weakref
from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np
import pytest
import torch
from PIL import Image
from protocol_case import tiny_model

from cascade_kp import Pipeline
from cascade_kp.config import CascadeConfig, NetConfig, TrunkConfig
from cascade_kp.detect import box_iou, boxes_within
from cascade_kp.errors import CascadeError, ImageError, InputError, ModelError
from cascade_kp.models.cascade import Cascade
from cascade_kp.runtime.detector import SingleShotDetector
from cascade_kp.schemes import load_scheme
from cascade_kp.structures import Face
from cascade_kp.weights import ModelInfo, model_path, save_model

# Read off the picture enlarged seven times, continuous frame: good to 2 px. Left and right are the subject's.
BOX = np.array([179.7, 88.0, 271.6, 178.4], np.float32)
LEFT_PUPIL, RIGHT_PUPIL = (247.3, 103.3), (203.7, 101.0)
NOSE_TIP, CHIN = (224.3, 126.1), (222.9, 178.3)
RIGHT_MOUTH_CORNER, LEFT_MOUTH_CORNER = (203.6, 140.3), (244.0, 141.4)
# iBUG numbers: the contour of each eye, the nose tip, the chin, the corners of the mouth.
TRUTH = {
    (36, 37, 38, 39, 40, 41): RIGHT_PUPIL,
    (42, 43, 44, 45, 46, 47): LEFT_PUPIL,
    (30,): NOSE_TIP,
    (8,): CHIN,
    (48,): RIGHT_MOUTH_CORNER,
    (54,): LEFT_MOUTH_CORNER,
}
NEAR_PX = 12.0
SIDE = float(max(BOX[2:] - BOX[:2]))


@pytest.fixture(scope="module")
def astronaut():
    data = pytest.importorskip("skimage.data")
    image = np.array(data.astronaut(), dtype=np.uint8)
    image.setflags(write=False)
    return image


@pytest.fixture(scope="module")
def pipe():
    torch.set_num_threads(1)
    return Pipeline()


@pytest.fixture(scope="module")
def whole():
    """Takes every picture as one face: quick, and never without an answer."""
    return Pipeline(detector=None)


@pytest.fixture(scope="module")
def faces(pipe, astronaut):
    return pipe(astronaut)


@pytest.fixture(scope="module")
def boxed(pipe, astronaut):
    """The face in the box read off by eye."""
    return pipe(astronaut, boxes=BOX)[0]


@pytest.fixture(scope="module")
def files(tmp_path_factory, astronaut):
    """One good picture file and three bad ones."""
    folder = tmp_path_factory.mktemp("pictures")
    Image.fromarray(astronaut).save(folder / "good.png")
    Image.fromarray(astronaut).save(folder / "whole.jpg")
    (folder / "truncated.jpg").write_bytes((folder / "whole.jpg").read_bytes()[:9000])
    Image.new("RGB", (1, 1)).save(folder / "dot.png")
    Image.new("RGB", (200, 150), (90, 120, 90)).save(folder / "empty.png")
    return folder


def distances(keypoints, move=lambda point: point):
    """Of each point of `TRUTH`, moved, to its keypoints' mean, px."""
    return {
        members: float(np.linalg.norm(keypoints[list(members)].mean(axis=0) - move(np.array(truth))))
        for members, truth in TRUTH.items()
    }


def assert_on_the_face(face, move=lambda point: point, scale=1.0):
    off = distances(face.keypoints, move)
    assert max(off.values()) < NEAR_PX * scale, off


def same(face, other, within=1e-3):
    for name in ("keypoints", "coarse", "sigma", "box"):
        np.testing.assert_allclose(getattr(face, name), getattr(other, name), atol=within, rtol=0, err_msg=name)
    assert face.score == pytest.approx(other.score, abs=1e-3)


def jittered(count, seed=0):
    """(count, 4) boxes near the face."""
    noise = np.random.default_rng(seed).normal(0, 4, (count, 4))
    return (BOX + noise).astype(np.float32)


# ------------------------------------------------------------------------------------------ one picture


def test_there_is_one_face_and_its_box_is_on_it(faces):
    assert len(faces) == 1
    assert isinstance(faces[0], Face)
    assert box_iou(faces[0].box[None], BOX[None])[0, 0] > 0.6


def test_the_points_are_where_the_face_has_them(faces):
    assert_on_the_face(faces[0])
    corners = np.linalg.norm(faces[0].keypoints[[36, 45]] - [(192.9, 100.4), (259.3, 103.6)], axis=1)
    assert corners.max() < NEAR_PX


def test_left_is_the_subjects_left(faces):
    face = faces[0]
    assert face["left_eye"][:, 0].min() > face["right_eye"][:, 0].max()
    assert face.keypoints[54, 0] > face.keypoints[48, 0]


def test_a_face_has_the_shapes_and_ranges_it_promises(faces, pipe):
    face = faces[0]
    assert face.keypoints.shape == face.coarse.shape == (68, 2)
    assert face.keypoints.dtype == face.coarse.dtype == face.sigma.dtype == face.box.dtype == np.float32
    assert face.sigma.shape == (68,)
    assert (face.sigma > 0).all()
    assert np.median(face.sigma) < 0.2 * SIDE
    assert 0.5 <= face.score <= 1.0
    assert face.scheme == pipe.scheme
    np.testing.assert_allclose(face.box, [*face.keypoints.min(axis=0), *face.keypoints.max(axis=0)])


def test_regions_refine_what_the_coarse_stage_said(faces, pipe):
    face = faces[0]
    refined = {i for name in pipe.info.config.regions for i in face.scheme.region(name)}
    moved = set(np.flatnonzero(np.abs(face.keypoints - face.coarse).max(axis=1) > 1e-4).tolist())
    assert moved <= refined
    assert len(moved) > len(refined) / 2


def test_stage_coarse_stops_after_stage_one(astronaut, boxed):
    pipe = Pipeline(stage="coarse")
    (face,) = pipe(astronaut, boxes=BOX)
    np.testing.assert_array_equal(face.keypoints, face.coarse)
    np.testing.assert_allclose(face.coarse, boxed.coarse, atol=1e-2)
    (found,) = pipe(astronaut)
    assert_on_the_face(found)


@pytest.mark.parametrize("backend", ["torch", "onnxruntime"])
def test_a_timed_call_gives_the_same_and_every_part_of_the_time(astronaut, backend):
    pipe = Pipeline("ibug68-fast", backend=backend)
    began = time.perf_counter()
    (face,), spent = pipe.timed(astronaut)
    whole = time.perf_counter() - began
    same(face, pipe(astronaut)[0])
    assert list(spent) == ["detect", "stage_one", "regions"]
    assert min(spent.values()) > 0
    assert sum(spent.values()) <= whole
    (coarse,), _ = pipe.timed(astronaut, [BOX], stage="coarse")
    np.testing.assert_array_equal(coarse.keypoints, coarse.coarse)
    assert pipe.timed(astronaut[:100, :100])[0] == []  # no face, and nothing to run
    same(pipe(astronaut, boxes=[BOX])[0], pipe.timed(astronaut, [BOX])[0][0])


def test_a_face_goes_to_json_and_back(faces):
    values = json.loads(json.dumps(faces[0].to_dict(), allow_nan=False))
    assert list(values) == ["box", "score", "keypoints", "sigma", "coarse"]
    np.testing.assert_allclose(values["keypoints"], faces[0].keypoints, atol=6e-4)


@pytest.mark.parametrize("image", ["flat", "ramp", "small"])
def test_a_picture_without_a_face_gives_an_empty_list(pipe, image):
    pictures = {
        "flat": np.full((240, 320, 3), 128, np.uint8),
        "ramp": np.tile(np.arange(256, dtype=np.uint8)[None, :, None], (200, 1, 3)),
        "small": np.zeros((2, 2, 3), np.uint8),
    }
    assert pipe(pictures[image]) == []


def test_the_same_picture_gives_the_same_answer(pipe, astronaut, faces):
    same(pipe(astronaut)[0], faces[0], within=0)


def test_the_picture_is_left_as_it_was(pipe, astronaut):
    image = astronaut.copy()
    pipe(image)
    np.testing.assert_array_equal(image, astronaut)


# ------------------------------------------------------------------------------------------ kinds of pictures


@pytest.mark.parametrize("kind", ["path", "str", "PIL", "RGBA", "uint16", "float", "float64", "reversed twice"])
def test_every_kind_of_picture_gives_the_same_face(pipe, astronaut, boxed, files, kind):
    sources = {
        "path": files / "good.png",
        "str": str(files / "good.png"),
        "PIL": Image.fromarray(astronaut),
        "RGBA": np.dstack([astronaut, np.full((512, 512), 7, np.uint8)]),
        "uint16": astronaut.astype(np.uint16) * 257,
        "float": astronaut.astype(np.float32) / 255,
        "float64": astronaut / 255.0,
        "reversed twice": np.ascontiguousarray(astronaut[::-1, ::-1])[::-1, ::-1],
    }
    same(pipe(sources[kind], boxes=BOX)[0], boxed)


def test_a_grey_picture_is_its_three_equal_channels(pipe, astronaut, boxed):
    grey = np.asarray(cv2.cvtColor(astronaut, cv2.COLOR_RGB2GRAY))
    (face,) = pipe(grey, boxes=BOX)
    same(face, pipe(np.dstack([grey] * 3), boxes=BOX)[0])
    # Without colour the networks see another picture, but the same face.
    assert np.linalg.norm(face.keypoints - boxed.keypoints, axis=1).mean() < 0.03 * SIDE
    (found,) = pipe(grey)
    assert_on_the_face(found)


@pytest.mark.parametrize(("orientation", "stored"), [(3, 2), (6, 1), (8, -1)])
def test_points_of_an_exif_rotated_file_are_in_the_upright_frame(pipe, astronaut, boxed, tmp_path, orientation, stored):
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / "turned.jpg"
    Image.fromarray(np.rot90(astronaut[:480], stored)).save(path, exif=exif, quality=98, subsampling=0)
    (face,) = pipe(path, boxes=BOX)
    assert np.abs(face.keypoints - boxed.keypoints).max() < 0.02 * SIDE
    (found,) = pipe(path)
    assert_on_the_face(found)


# ------------------------------------------------------------------------------------------ boxes


def test_boxes_keep_their_order_and_are_never_rejected(pipe, astronaut, boxed):
    elsewhere = np.array([300.0, 300.0, 380.0, 400.0])  # the shuttle: no face
    faces = pipe(astronaut, boxes=np.stack([elsewhere, BOX, elsewhere, BOX]))
    assert len(faces) == 4
    for i in (1, 3):
        same(faces[i], boxed, within=1e-2)
    assert faces[0].score < boxed.score


@pytest.mark.parametrize("boxes", [BOX, BOX[None], BOX.tolist(), [BOX.tolist()], tuple(BOX.astype(np.float64))])
def test_one_box_may_come_in_any_form(pipe, astronaut, boxed, boxes):
    (face,) = pipe(astronaut, boxes=boxes)
    same(face, boxed)


@pytest.mark.parametrize("boxes", [[], (), np.zeros((0, 4))])
def test_no_boxes_give_no_faces(pipe, astronaut, boxes):
    assert pipe(astronaut, boxes=boxes) == []


def test_a_box_may_reach_outside(pipe, astronaut, boxed):
    cut = astronaut[95:, 185:]
    (face,) = pipe(cut, boxes=BOX - np.tile([185, 95], 2))
    assert np.median(np.linalg.norm(face.keypoints - (boxed.keypoints - [185, 95]), axis=1)) < 0.1 * SIDE


@pytest.mark.parametrize(
    ("boxes", "message"),
    [
        ([[0, 0, 10]], "shape"),
        ([[0, 0, 10, 10, 1]], "shape"),
        (np.zeros((1, 2, 4)), "shape"),
        (7, "shape"),
        ("boxes", "array"),
        ([[0, 0, 1, 1], [0, 0, 1]], "array"),
        ([[0, 0, math.nan, 10]], "finite"),
        ([[0, 0, math.inf, 10]], "finite"),
        ([[10, 10, 5, 20]], "x1 > x0"),
        ([[10, 10, 10, 20]], "x1 > x0"),
        ([[600, 10, 700, 90]], "overlap"),
        ([[-50, 10, -1, 90]], "overlap"),
        ([[0, 0, 50, 50], [10, -90, 60, 0]], "overlap"),
    ],
)
def test_boxes_that_cannot_be_used_are_refused(pipe, astronaut, boxes, message):
    with pytest.raises(InputError, match=rf"array \(512, 512, 3\) uint8: .*expected.*{message}"):
        pipe(astronaut, boxes=boxes)


def test_the_refusal_of_boxes_names_the_picture(pipe, files, astronaut):
    with pytest.raises(InputError, match=r"good\.png: box 0"):
        pipe([astronaut, files / "good.png"], boxes=[BOX, [5, 5, 1, 1]])


def test_eight_faces_together_are_the_same_as_one_by_one(pipe, astronaut):
    boxes = jittered(8)
    for box, face in zip(boxes, pipe(astronaut, boxes=boxes), strict=True):
        same(face, pipe(astronaut, boxes=box)[0], within=1e-3)


def test_more_faces_than_one_batch_come_back_in_order(pipe, astronaut):
    boxes = np.tile(jittered(4), (10, 1))
    faces = pipe(astronaut, boxes=boxes)
    assert len(faces) == 40
    for i, face in enumerate(faces):
        same(face, faces[i % 4], within=1e-3)


# ------------------------------------------------------------------------------------------ detectors


def test_without_a_detector_the_picture_is_one_face(whole, pipe, astronaut):
    x0, y0, x1, y1 = BOX.astype(int)
    cut = astronaut[y0:y1, x0:x1]
    (face,) = whole(cut)
    same(face, pipe(cut, boxes=[0, 0, x1 - x0, y1 - y0])[0])
    assert_on_the_face(face, move=lambda point: point - [x0, y0])
    assert len(whole(np.zeros((40, 50, 3), np.uint8))) == 1


def test_a_detector_of_ones_own_gets_the_upright_picture(astronaut, boxed):
    seen = []

    def detector(image):
        seen.append(image)
        return [[*BOX.tolist(), 0.9]]

    (face,) = Pipeline(detector=detector)(Image.fromarray(astronaut))
    assert len(seen) == 1
    assert seen[0].dtype == np.uint8
    np.testing.assert_array_equal(seen[0], astronaut)
    assert face.score > 0.5
    same(face, boxed, within=1e-2)


@pytest.mark.parametrize("nothing", [[], np.zeros((0, 5)), np.zeros((0, 4)), ()])
def test_a_detector_that_finds_nothing_gives_no_face(astronaut, nothing):
    assert Pipeline(detector=lambda _: nothing)(astronaut) == []


@pytest.mark.parametrize("wrong", [None, "box", BOX, [BOX], np.zeros((1, 2, 5)), [[1, 2, 3, 4, "x"]], [[1], [1, 2]], 3])
def test_a_detector_that_answers_in_another_form_is_refused(astronaut, wrong):
    with pytest.raises(InputError, match=r"detector: expected numbers of shape \(N, 5\), xyxy and score, got"):
        Pipeline(detector=lambda _: wrong)(astronaut)


def test_a_box_of_a_detector_that_cannot_be_used_is_refused(files):
    with pytest.raises(InputError, match=r"good\.png: detector: box 0 .*expected x1 > x0"):
        Pipeline(detector=lambda _: [[10, 10, 5, 5, 0.9]])(files / "good.png")


def test_boxes_that_hold_no_face_are_rejected_and_duplicates_joined(astronaut, boxed):
    elsewhere = [5.0, 300.0, 60.0, 360.0]
    found = [[*elsewhere, 1.0], [*BOX, 0.9], [*(BOX + 2), 0.8], [*(BOX - 3), 0.7]]
    (face,) = Pipeline(detector=lambda _: found)(astronaut)
    assert np.abs(face.keypoints - boxed.keypoints).max() < 0.05 * SIDE


def test_min_score_decides_which_detected_boxes_are_faces(astronaut):
    for min_score, count in [(0.0, 2), (0.25, 2), (0.26, 1), (0.5, 1), (0.51, 0), (1.0, 0)]:
        pipe = Pipeline(detector=lambda _: [[*BOX, 1.0], [*(BOX + 130), 1.0]], min_score=min_score)
        pipe._runtime.judge = lambda *_: (np.array([0.25, 0.5], np.float32), np.array([0.01, 0.01], np.float32))
        kept = pipe.find(astronaut)
        assert len(kept) == count
        np.testing.assert_array_equal(kept.boxes, np.stack([BOX, BOX + 130])[2 - count :])


def test_the_network_that_sees_a_box_first_decides_whether_it_is_a_face(astronaut, tmp_path):
    net = NetConfig(input_px=32, trunk=TrunkConfig(width=8, stages=2), head_width=4)
    config = CascadeConfig(coarse=net, first=dataclasses.replace(net, input_px=48), passes=2)
    cascade = Cascade(config, load_scheme("ibug68"))
    for logit, count in [(9.0, 1), (-9.0, 0)]:
        cascade.coarse.first.head.doubt.linear.bias.data[68] = logit
        path = tmp_path / f"{count}.safetensors"
        save_model(path, cascade, ModelInfo(path.stem, cascade.scheme, config))
        found = Pipeline(path, detector=lambda _: [[*BOX, 1.0]])(astronaut)
        assert len(found) == count
        assert all(face.score > 0.99 for face in found)


def test_a_detected_box_is_brought_to_where_the_models_points_lie(astronaut, tmp_path):
    place = (-0.2, 0.1, 0.2, 0.4)  # about the mouth
    whole, part = (
        Pipeline(tiny_model(tmp_path / f"{name}.safetensors", within_face=where), min_score=0.0, threads=1)
        for name, where in (("whole", None), ("part", place))
    )
    faces, mouths = whole.find(astronaut), part.find(astronaut)
    assert len(faces) > 0
    found, rolls = SingleShotDetector(threads=1).detect(astronaut)
    np.testing.assert_array_equal(faces.boxes, found[:, :4])
    np.testing.assert_allclose(mouths.boxes, boxes_within(found[:, :4], rolls, place), atol=1e-3)
    assert set(np.degrees(faces.rolls[np.abs(rolls) < 30]).tolist()) == {0.0}  # small ones are left to stage one
    # What the caller gives is taken as it is.
    np.testing.assert_array_equal(part.find(astronaut, faces.boxes[:1]).boxes, faces.boxes[:1])


def test_two_faces_are_found_once_each_and_the_larger_comes_first(pipe, astronaut):
    small = np.asarray(Image.fromarray(astronaut).resize((320, 320), Image.Resampling.LANCZOS))
    image = np.zeros((512, 832, 3), np.uint8)
    image[96:416, :320] = small
    image[:, 320:] = astronaut
    faces = pipe(image)
    assert len(faces) == 2
    assert_on_the_face(faces[0], move=lambda point: point + np.array([320, 0]))
    assert_on_the_face(faces[1], move=lambda point: point * 0.625 + [0, 96], scale=0.8)


# ------------------------------------------------------------------------------------------ many pictures


def test_a_list_gives_a_list_of_lists(pipe, astronaut, files, faces):
    for sources in ([astronaut, files / "empty.png", files / "good.png"], (astronaut,), []):
        results = pipe(sources)
        assert isinstance(results, list)
        assert len(results) == len(sources)
    results = pipe([astronaut, files / "empty.png", files / "good.png"])
    assert [len(found) for found in results] == [1, 0, 1]
    same(results[0][0], faces[0], within=1e-2)
    same(results[2][0], faces[0], within=1e-2)


def test_a_list_takes_a_list_of_boxes(pipe, astronaut, boxed):
    results = pipe([astronaut, astronaut, astronaut], boxes=[BOX, [], jittered(2)])
    assert [len(found) for found in results] == [1, 0, 2]
    same(results[0][0], boxed, within=1e-2)
    detected = pipe([astronaut, astronaut], boxes=[None, BOX])
    assert [len(found) for found in detected] == [1, 1]


@pytest.mark.parametrize("boxes", [[], [BOX], [BOX] * 3, 5, iter([BOX, BOX])])
def test_a_list_of_boxes_of_another_length_is_refused(pipe, astronaut, boxes):
    with pytest.raises(InputError, match="boxes: expected one entry for each of the 2 pictures, got"):
        pipe([astronaut, astronaut], boxes=boxes)


def test_a_bad_picture_in_a_list_is_an_error_that_names_it(pipe, astronaut, files):
    with pytest.raises(ImageError, match=r"dot\.png"):
        pipe([astronaut, files / "dot.png"])


@pytest.mark.parametrize("batch_size", [1, 3, 32])
def test_a_stream_goes_on_after_a_bad_picture(pipe, astronaut, files, faces, batch_size):
    bad = ["missing.png", "truncated.jpg", "dot.png"]
    sources = [files / "good.png", *(files / name for name in bad), files / "empty.png", astronaut, 3]
    results = list(pipe.stream(sources, batch_size=batch_size))
    assert len(results) == len(sources)
    for i in (0, 5):
        same(results[i][0], faces[0], within=1e-2)
        assert len(results[i]) == 1
    for name, error in zip(bad, results[1:4], strict=True):
        assert isinstance(error, ImageError)
        assert str(files / name) in str(error)
    assert results[4] == []
    assert isinstance(results[6], CascadeError)


def counted(count, taken):
    generator = np.random.default_rng(0)
    for i in range(count):
        taken.append(i)
        yield generator.integers(0, 256, (24, 32, 3), dtype=np.uint8)


@pytest.mark.parametrize("detector", [None, lambda _: []], ids=["faces", "no faces"])
def test_a_stream_takes_pictures_only_as_results_are_asked_for(detector):
    taken = []
    results = Pipeline(detector=detector).stream(counted(50, taken), batch_size=4, workers=2)
    assert taken == []
    for done in range(1, 51):
        next(results)
        assert len(taken) - done < 3 * 4 + 3 * 2  # a batch more than refiners, a pair more than workers
    with pytest.raises(StopIteration):
        next(results)
    assert len(taken) == 50


def test_a_stream_of_errors_holds_no_more_than_its_batch(whole):
    taken = []
    pictures = (taken.append(i) for i in range(50))  # None is no picture
    results = whole.stream(pictures, batch_size=4, workers=2)
    for done in range(1, 51):
        assert isinstance(next(results), ImageError)
        assert len(taken) - done < 3 * 4 + 3 * 2


def test_a_stream_without_end_is_fine(whole):
    def forever():
        while True:
            yield np.zeros((24, 32, 3), np.uint8)

    results = whole.stream(forever(), batch_size=2)
    assert [len(next(results)) for _ in range(5)] == [1] * 5
    results.close()


def test_a_stream_keeps_no_picture_while_its_faces_wait():
    # The faces are small, so that their crops are slices of the picture.
    pipe = Pipeline(detector=lambda _: [[20, 20, 40, 40, 1.0]], min_score=0.0)
    alive = weakref.WeakSet()

    class Picture(np.ndarray):
        """An array that can be counted."""

        __hash__ = object.__hash__

    most = 0

    def pictures():
        nonlocal most
        for _ in range(12):
            picture = np.zeros((300, 400, 3), np.uint8).view(Picture)
            alive.add(picture)
            yield picture
            del picture
            gc.collect()
            most = max(most, len(alive))

    assert len(list(pipe.stream(pictures(), batch_size=12, workers=1))) == 12
    assert most <= 4  # at work, or next; not twelve


def test_a_stream_may_be_fed_from_one_array(whole, astronaut):
    size = astronaut.shape
    buffer = np.empty(size, np.uint8)

    def frames():
        for i in range(6):
            buffer[:] = np.roll(astronaut, 20 * i, axis=1)
            yield buffer

    streamed = list(whole.stream(frames(), workers=2))
    for i, faces in enumerate(streamed):
        same(faces[0], whole(np.roll(astronaut, 20 * i, axis=1))[0], within=1e-2)


def test_a_stream_gives_what_came_before_its_sources_failed(whole, astronaut):
    def broken():
        yield astronaut
        raise OSError("the camera is gone")

    results = whole.stream(broken())
    assert len(next(results)) == 1
    with pytest.raises(OSError, match="the camera is gone"):
        next(results)


def test_a_detector_of_ones_own_is_called_by_one_thread_unless_asked(astronaut):
    def called(**options):
        at_once, most, lock = 0, 0, threading.Lock()

        def detector(_):
            nonlocal at_once, most
            with lock:
                at_once += 1
                most = max(most, at_once)
            time.sleep(0.05)
            with lock:
                at_once -= 1
            return []

        assert list(Pipeline(detector=detector).stream([astronaut] * 6, **options)) == [[]] * 6
        return most

    assert called() == 1
    assert called(workers=3) > 1


def test_an_empty_stream_is_empty(pipe):
    assert list(pipe.stream([])) == []


@pytest.mark.parametrize("batch_size", [0, -1, 1.5, "2", True, None])
def test_a_bad_batch_size_is_refused_at_once(pipe, batch_size):
    with pytest.raises(InputError, match="batch_size: expected a positive whole number, got"):
        pipe.stream([], batch_size=batch_size)


@pytest.mark.parametrize("workers", [0, -1, 1.5, "2", True])
def test_a_bad_number_of_workers_is_refused_at_once(pipe, workers):
    with pytest.raises(InputError, match="workers: expected a positive whole number, got"):
        pipe.stream([], workers=workers)


def test_an_error_in_place_of_a_picture_stays_in_its_place(pipe, astronaut):
    lost = ImageError("frame 3 is broken")
    first, second, third = pipe.stream([astronaut, lost, astronaut])
    assert second is lost
    assert len(first) == len(third) == 1


@pytest.mark.parametrize(
    "source",
    [
        "photo.jpg",
        b"photo.jpg",
        model_path("ibug68"),
        None,
        Image.new("RGB", (9, 9)),
        np.zeros((96, 112, 3), np.uint8),
        np.zeros((96, 112), np.uint8),
    ],
)
def test_one_picture_is_no_stream(pipe, source):
    with pytest.raises(InputError, match="stream: expected an iterable of pictures"):
        pipe.stream(source)


def test_a_detector_that_answers_in_another_form_is_an_error_of_each_picture(files):
    pipe = Pipeline(detector=lambda _: np.zeros((1, 3)))
    results = list(pipe.stream([files / "good.png", files / "empty.png"]))
    for name, error in zip(["good.png", "empty.png"], results, strict=True):
        assert isinstance(error, InputError)
        assert name in str(error)


# ------------------------------------------------------------------------------------------ geometry


@pytest.mark.parametrize("shift", [(1, 0), (0, 1), (37, 64), (300, 11)])
def test_points_move_with_the_picture(pipe, astronaut, boxed, shift):
    x, y = shift
    moved = np.pad(astronaut, ((y, 3), (x, 5), (0, 0)))
    (face,) = pipe(moved, boxes=BOX + np.tile(shift, 2))
    assert np.abs(face.keypoints - shift - boxed.keypoints).max() < 0.05
    assert np.abs(face.coarse - shift - boxed.coarse).max() < 0.05
    np.testing.assert_allclose(face.sigma, boxed.sigma, rtol=1e-2)


@pytest.mark.parametrize("scale", [2, 4])
def test_points_and_sigma_scale_with_the_picture(pipe, astronaut, boxed, scale):
    side = 512 * scale
    larger = np.asarray(Image.fromarray(astronaut).resize((side, side), Image.Resampling.BICUBIC))
    (face,) = pipe(larger, boxes=BOX * scale)
    assert np.abs(face.keypoints / scale - boxed.keypoints).max() < 0.01 * SIDE
    np.testing.assert_allclose(face.sigma / scale, boxed.sigma, rtol=0.1)


@pytest.mark.parametrize("degrees", [90, 180, 270])
def test_a_picture_lying_on_its_side_still_shows_its_face(pipe, astronaut, degrees):
    faces = pipe(np.rot90(astronaut, -degrees // 90))  # clockwise

    def move(point):
        x, y = point
        return np.array({90: (512 - y, x), 180: (512 - x, 512 - y), 270: (y, 512 - x)}[degrees])

    assert len(faces) == 1
    assert_on_the_face(faces[0], move)


@pytest.mark.parametrize("degrees", [-30, 30])
def test_a_tilted_face_is_found(pipe, astronaut, degrees):
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    turn = np.array([[cos, -sin], [sin, cos]])  # clockwise on the screen, about the middle, continuous frame
    shift = 256 - turn @ [256, 256]
    centres = shift + turn @ [0.5, 0.5] - 0.5  # OpenCV counts from pixel centres
    image = cv2.warpAffine(astronaut, np.c_[turn, centres], (512, 512), borderMode=cv2.BORDER_REPLICATE)
    faces = pipe(np.asarray(image))
    assert len(faces) == 1
    assert_on_the_face(faces[0], lambda point: turn @ point + shift)


# ------------------------------------------------------------------------------------------ the object


def test_four_threads_get_the_same_answers(pipe, astronaut, faces, boxed):
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(pipe, [astronaut] * 4))
        given = list(pool.map(lambda box: pipe(astronaut, boxes=box), [BOX] * 8))
    assert [len(result) for result in found] == [1] * 4
    for result in found:
        same(result[0], faces[0])
    for result in given:
        same(result[0], boxed)


def test_threads_are_those_asked_for_and_the_callers_are_put_back(astronaut, boxed):
    before = torch.get_num_threads()
    (face,) = Pipeline(threads=2)(astronaut, boxes=BOX)
    assert torch.get_num_threads() == before
    same(face, boxed, within=1e-2)


def test_both_backends_say_the_same(astronaut):
    auto, torch_only = Pipeline(), Pipeline(backend="torch")
    same(auto(astronaut, boxes=BOX)[0], torch_only(astronaut, boxes=BOX)[0], within=1e-2)


def test_a_model_file_is_as_good_as_a_name(astronaut, boxed):
    for path in (model_path("ibug68"), str(model_path("ibug68"))):
        pipe = Pipeline(path)
        same(pipe(astronaut, boxes=BOX)[0], boxed)
        assert pipe.info.name == "ibug68"


def test_it_says_what_it_is(pipe):
    assert repr(pipe) == "Pipeline('ibug68', stage='regions', device='cpu')"
    assert pipe.scheme is pipe.info.scheme
    assert pipe.scheme.name == "ibug68"


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"model": "ibug86"}, ModelError, "did you mean 'ibug68'"),
        ({"model": "no/such.safetensors"}, ModelError, "no/such.safetensors"),
        ({"model": None}, ModelError, "got NoneType"),
        ({"stage": "fine"}, InputError, "stage: expected 'coarse' or 'regions', got 'fine'"),
        ({"stage": None}, InputError, "stage: expected"),
        ({"backend": "tensorrt"}, InputError, "backend: expected .* got 'tensorrt'"),
        ({"device": "gpu"}, InputError, "device: expected .* got 'gpu'"),
        ({"device": "cuda:99"}, InputError, "device: expected .* got 'cuda:99'"),
        ({"threads": 0}, InputError, "threads: expected .* got 0"),
        ({"detector": "haar"}, InputError, "detector: expected .* got 'haar'"),
        ({"detector": np.zeros((1, 5))}, InputError, "detector: expected"),
        ({"min_score": 1.01}, InputError, "min_score: expected .* got 1.01"),
        ({"min_score": -0.1}, InputError, "min_score: expected .* got -0.1"),
        ({"min_score": math.nan}, InputError, "min_score: expected .* got nan"),
        ({"min_score": "0.5"}, InputError, "min_score: expected .* got '0.5'"),
        ({"min_score": True}, InputError, "min_score: expected .* got True"),
    ],
)
def test_a_bad_option_is_refused(options, error, message):
    with pytest.raises(error, match=message):
        Pipeline(**options)


@pytest.mark.parametrize("source", [None, 3, b"bytes", np.zeros((5, 5, 2), np.uint8), np.zeros((3, 1, 3)), ""])
def test_what_is_no_picture_is_refused(pipe, source):
    with pytest.raises(ImageError, match="expected"):
        pipe(source)


def test_a_detector_is_shown_a_picture_that_it_cannot_change():
    picture = np.zeros((60, 80, 3), np.uint8)

    def detector(image):
        assert not image.flags.writeable
        return np.zeros((0, 5), np.float32)

    assert Pipeline(detector=detector)(picture) == []
    assert picture.flags.writeable


def test_a_detectors_score_that_is_no_number_is_refused():
    pipe = Pipeline(detector=lambda _: np.array([[10, 10, 50, 50, np.nan]]))
    with pytest.raises(InputError, match="expected finite scores"):
        pipe(np.zeros((60, 80, 3), np.uint8))
