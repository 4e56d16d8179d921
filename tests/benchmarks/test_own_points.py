import pytest

pytest.importorskip("benchmarks.own_points", reason="needs the checkout's benchmarks: python -m pytest in its root")

import numpy as np

from benchmarks import own_points
from cascade_kp.data.readers import read_300w
from cascade_kp.data.synthetic import write_synthetic
from cascade_kp.schemes import load_scheme, sources


def test_the_model_has_no_word_for_any_of_the_points():
    scheme = load_scheme(own_points._SCHEME)
    assert own_points._MEANS.keys() == set(scheme.keypoints)
    assert not any(sources(load_scheme("ibug68").keypoints, scheme.keypoints))


def test_labels_are_the_means_of_those_that_they_are_made_from(tmp_path):
    write_synthetic(tmp_path / "faces", 3, seed=1, size=(64, 64))
    samples = read_300w(tmp_path / "faces")
    scheme = load_scheme(own_points._SCHEME)
    made = own_points.renamed(samples, scheme)
    pupil = samples.keypoints[:, [37, 38, 40, 41]].mean(axis=1)
    np.testing.assert_allclose(made.keypoints[:, scheme.index("right_pupil")], pupil, atol=1e-4)
    np.testing.assert_array_equal(made.keypoints[:, scheme.index("gnathion")], samples.keypoints[:, 8])


def test_faces_come_in_one_order_and_validation_faces_stay_out(tmp_path):
    for folder in own_points._TRAIN:
        write_synthetic(tmp_path / folder, 4, seed=len(folder), size=(64, 64))
    names = [f"{own_points._TRAIN[0]}/{name}" for name in read_300w(tmp_path / own_points._TRAIN[0]).names]
    (tmp_path / "split.txt").write_text(names[0])
    learnt, kept = own_points.faces_of(tmp_path, tmp_path / "split.txt")
    assert kept.names == (names[0],)
    assert len(learnt) == 11
    assert names[0] not in learnt.names
    again, _ = own_points.faces_of(tmp_path, tmp_path / "split.txt")
    assert again.names == learnt.names != tuple(sorted(learnt.names))
