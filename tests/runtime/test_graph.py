"""The writer of ONNX graphs: arithmetic, constants, branches, loops."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest

from cascade_kp.runtime.graph import OPSET, Graph


def run(graph, outputs, **inputs):
    arrays = {name: np.asarray(value) for name, value in inputs.items()}
    model = graph.model(
        "test",
        {name: (array.dtype.type, list(map(str, range(array.ndim)))) for name, array in arrays.items()},
        {name: (value, shape) for name, (value, shape) in outputs.items()},
    )
    onnx.checker.check_model(model, full_check=True)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, arrays), model


def test_values_reckon_as_arrays_do():
    graph = Graph()
    x = graph.input("x", np.float32)
    value = np.array([[1.5, -2.0, 3.0], [0.25, 8.0, -1.0]], np.float32)
    ways = {
        "arithmetic": lambda v: (3 - v) * 2 + 1 / (v + 10) - v / 4,
        "product": lambda v: v @ v.transpose(1, 0),
    }
    ours = {name: way(x) for name, way in ways.items()}
    ours |= {
        "limited": x.least(2).most(-1),
        "reduced": x.max(1) + x.min(1) + x.mean(1) + x.sum(1) + x.norm(1),
        "kept": x.max(0, keep=True),
        "chosen": ((x > 0) & (x <= 3)).where(x, 7),
        "all": ((x >= -2) & (x < 9)).all(1),
        "taken": x.take([2, 0], 1).reshape(2, 2, 1).unsqueeze(0),
        "part": x.part(1, 3, 1).cast(np.int32),
        "one": x.take(1, 0),
        "equal": x.equals(8.0),
        "span": graph.span(graph.size(x, 1)),
        "stack": graph.stack(x, x + 1, axis=1),
        "rows": x.reshape(graph.size(x, 1), -1),
    }
    wanted = {name: way(value) for name, way in ways.items()}
    wanted |= {
        "limited": np.clip(value, -1, 2),
        "reduced": value.max(1) + value.min(1) + value.mean(1) + value.sum(1) + np.linalg.norm(value, axis=1),
        "kept": value.max(0, keepdims=True),
        "chosen": np.where((value > 0) & (value <= 3), value, 7),
        "all": ((value >= -2) & (value < 9)).all(1),
        "taken": value[:, [2, 0]].reshape(1, 2, 2, 1),
        "part": value[:, 1:3].astype(np.int32),
        "one": value[1],
        "equal": value == 8,
        "span": np.arange(3),
        "stack": np.stack([value, value + 1], axis=1),
        "rows": value.reshape(3, 2),
    }
    outputs = {name: (ours[name], list(wanted[name].shape)) for name in ours}
    got, _ = run(graph, outputs, x=value)
    for name, array in zip(outputs, got, strict=True):
        assert array.dtype == wanted[name].dtype, name
        np.testing.assert_allclose(array, wanted[name], rtol=1e-6, err_msg=name)


@pytest.mark.parametrize("x", [3.0, -3.0])
def test_only_one_branch_runs(x):
    graph = Graph()
    value = graph.input("x", np.float32)
    bad = graph.constant([7])  # an index that no list has: the branch fails if it runs
    got = graph.branch(
        value > 0.0,
        lambda: [value, value * 2],
        lambda: [value.unsqueeze(0).take(bad, 0).max(0), value],
    )
    outputs = {"a": (got[0], []), "b": (got[1], [])}
    if x > 0:
        (a, b), _ = run(graph, outputs, x=np.float32(x))
        assert (a, b) == (3, 6)
    else:
        with pytest.raises(onnxruntime.capi.onnxruntime_pybind11_state.InvalidArgument):
            run(graph, outputs, x=np.float32(x))


@pytest.mark.parametrize("count", [0, 1, 4])
def test_a_loop_carries_its_state_and_gathers(count):
    graph = Graph()
    times, x = graph.input("times", np.int64), graph.input("x", np.float32)
    state, gathered = graph.loop(
        times,
        lambda turn, held: [held[0] * 2, held[0] + turn.cast(np.float32) + x],  # x is outside
        state=[x + 1],
        shapes=[[2]],
    )
    outputs = {"state": (state, [2]), "gathered": (gathered, ["n", 2])}
    (held, all_turns), _ = run(graph, outputs, times=np.int64(count), x=np.array([1, 2], np.float32))
    start = np.array([2.0, 3.0])
    np.testing.assert_array_equal(held, start * 2**count)
    assert all_turns.shape == (count, 2)
    for turn, row in enumerate(all_turns):
        np.testing.assert_array_equal(row, start * 2**turn + turn + [1, 2])


def test_equal_constants_stand_once_and_beside_their_first_use():
    graph = Graph()
    x, weights = graph.input("x", np.float32), np.arange(5, dtype=np.float32)
    once = x + graph.constant(weights)
    again = once * graph.constant(weights.copy())
    inner = graph.branch(
        again.sum(0) > 0.0,
        lambda: [again + graph.constant(weights) + graph.constant(weights[::-1])],
        lambda: [again],
    )
    (got,), model = run(graph, {"y": (inner[0], [5])}, x=np.ones(5, np.float32))
    np.testing.assert_array_equal(got, (1 + weights) * weights + weights + weights[::-1])
    (branch,) = [node for node in model.graph.node if node.op_type == "If"]
    bodies = {attribute.name: attribute.g for attribute in branch.attribute}
    held = [
        [t.dims for t in g.initializer if list(t.dims) == [5]]
        for g in (model.graph, bodies["then_branch"], bodies["else_branch"])
    ]
    assert [len(found) for found in held] == [1, 1, 0]  # outside; the reversed one in its branch
    assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", OPSET)]
