"""Writing ONNX graphs: values with arithmetic, and branches and loops that are written as Python functions.

Nothing is traced: an expression of values adds one node for each of its operations, where it stands. All operators are
of the standard domain, and of the lowest opset that has all of them, so that old and small runtimes take the graphs.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import helper, numpy_helper

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

__all__ = ["OPSET", "Graph", "Value"]

OPSET = 16  # the first with GridSample
_IR_VERSION = 8  # of that opset's time: newer ones are refused by older runtimes, without need

Shape = list[str | int]


@dataclass(frozen=True, eq=False)
class Value:
    """A tensor of a graph: what a node gives, an input or a constant. Plain numbers take the type of what they meet."""

    graph: Graph
    name: str
    dtype: np.dtype[Any]

    def __add__(self, other: Value | float) -> Value:
        return self._with("Add", other)

    __radd__ = __add__

    def __sub__(self, other: Value | float) -> Value:
        return self._with("Sub", other)

    def __rsub__(self, other: float) -> Value:
        return self._number(other)._with("Sub", self)

    def __mul__(self, other: Value | float) -> Value:
        return self._with("Mul", other)

    __rmul__ = __mul__

    def __truediv__(self, other: Value | float) -> Value:
        return self._with("Div", other)

    def __rtruediv__(self, other: float) -> Value:
        return self._number(other)._with("Div", self)

    def __matmul__(self, other: Value) -> Value:
        return self._with("MatMul", other)

    def __and__(self, other: Value) -> Value:
        return self._with("And", other)

    def __gt__(self, other: Value | float) -> Value:
        return self._with("Greater", other, bool)

    def __ge__(self, other: Value | float) -> Value:
        return self._with("GreaterOrEqual", other, bool)

    def __lt__(self, other: Value | float) -> Value:
        return self._with("Less", other, bool)

    def __le__(self, other: Value | float) -> Value:
        return self._with("LessOrEqual", other, bool)

    def equals(self, other: Value | float) -> Value:
        """Where the two are the same, element by element."""
        return self._with("Equal", other, bool)

    def least(self, other: Value | float) -> Value:
        """The smaller of the two, element by element."""
        return self._with("Min", other)

    def most(self, other: Value | float) -> Value:
        """The larger of the two, element by element."""
        return self._with("Max", other)

    def apply(self, kind: str) -> Value:
        """One of the operators that take nothing else: ``Floor``, ``Exp``, ``Sqrt`` ..."""
        return self.graph.node(kind, self)

    def cast(self, dtype: type[np.generic | bool]) -> Value:
        """The same numbers in another type."""
        to = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
        return self.graph.node("Cast", self, dtype=dtype, to=to)

    def where(self, yes: Value, no: Value | float) -> Value:
        """One value where this one is true and another where it is not."""
        return self.graph.node("Where", self, yes, yes._number(no), dtype=yes.dtype)

    def max(self, axis: int, *, keep: bool = False) -> Value:
        """The largest along an axis."""
        return self.graph.node("ReduceMax", self, axes=[axis], keepdims=int(keep))

    def min(self, axis: int, *, keep: bool = False) -> Value:
        """The smallest along an axis."""
        return self.graph.node("ReduceMin", self, axes=[axis], keepdims=int(keep))

    def mean(self, axis: int, *, keep: bool = False) -> Value:
        """The mean along an axis."""
        return self.graph.node("ReduceMean", self, axes=[axis], keepdims=int(keep))

    def sum(self, axis: int, *, keep: bool = False) -> Value:
        """The sum along an axis."""
        return self.graph.node("ReduceSum", self, self.graph.constant([axis]), keepdims=int(keep))

    def all(self, axis: int) -> Value:
        """Whether all along an axis are true."""
        return self.cast(np.int32).min(axis).cast(bool)

    def norm(self, axis: int) -> Value:
        """The Euclidean length along an axis."""
        return self.graph.node("ReduceL2", self, axes=[axis], keepdims=0)

    def take(self, which: int | Sequence[int] | NDArray[np.int64] | Value, axis: int) -> Value:
        """Slices along an axis by their indices; a single index takes the axis away."""
        index = which if isinstance(which, Value) else self.graph.constant(np.asarray(which, np.int64))
        return self.graph.node("Gather", self, index, axis=axis)

    def part(self, start: int, stop: int, axis: int) -> Value:
        """The slices from one index to before another along an axis."""
        ends = (self.graph.constant([end]) for end in (start, stop, axis))
        return self.graph.node("Slice", self, *ends)

    def reshape(self, *shape: int | Value) -> Value:
        """Another shape; 0 keeps a side as it is, -1 is worked out, a value is a scalar int64."""
        if not any(isinstance(side, Value) for side in shape):
            return self.graph.node("Reshape", self, self.graph.constant([int(side) for side in shape]))  # type: ignore[arg-type]
        sides = [s.unsqueeze(0) if isinstance(s, Value) else self.graph.constant([s]) for s in shape]
        return self.graph.node("Reshape", self, self.graph.node("Concat", *sides, axis=0))

    def transpose(self, *order: int) -> Value:
        """The axes in another order."""
        return self.graph.node("Transpose", self, perm=list(order))

    def unsqueeze(self, *axes: int) -> Value:
        """With new axes of one slice, where they then stand."""
        return self.graph.node("Unsqueeze", self, self.graph.constant(list(axes)))

    def _number(self, other: Value | float) -> Value:
        return other if isinstance(other, Value) else self.graph.constant(np.array(other, self.dtype))

    def _with(self, kind: str, other: Value | float, dtype: type[bool] | None = None) -> Value:
        return self.graph.node(kind, self, self._number(other), dtype=dtype)


@dataclass
class _Scope:
    """A graph, or the body of a branch or loop: its nodes and constants, and what of these is where."""

    nodes: list[onnx.NodeProto] = field(default_factory=list)
    constants: list[onnx.TensorProto] = field(default_factory=list)
    known: dict[object, list[tuple[Value, NDArray[Any]]]] = field(default_factory=dict)


class Graph:
    """Nodes and constants as they are written, each value under a name of its own.

    A constant stands in the graph or body that first asks for it, and equal ones only once: ONNX Runtime prepares
    weights for its faster kernels only where they stand beside their nodes, not where a body reaches out for them.
    """

    def __init__(self) -> None:
        self._scopes = [_Scope()]
        self._names = 0

    def constant(self, value: torch.Tensor | NDArray[Any] | Sequence[int]) -> Value:
        """A constant of its own type; a list is of int64."""
        if isinstance(value, torch.Tensor):
            array = value.detach().contiguous().numpy()
        else:
            array = value if isinstance(value, np.ndarray) else np.array(value, np.int64)
        what = (array.dtype.str, array.shape, array.flat[:16].tobytes())  # which tells most apart
        for scope in self._scopes:
            for known, same in scope.known.get(what, []):
                if np.array_equal(same, array):
                    return known
        scope, made = self._scopes[-1], Value(self, self._name("c"), array.dtype)
        scope.constants.append(numpy_helper.from_array(array, made.name))
        scope.known.setdefault(what, []).append((made, array))
        return made

    def input(self, name: str, dtype: type[np.generic]) -> Value:
        """An input, which :meth:`model` must be told of too."""
        return Value(self, name, np.dtype(dtype))

    def node(
        self,
        kind: str,
        *inputs: Value | None,
        name: str = "",
        dtype: type[np.generic | bool] | np.dtype[Any] | None = None,
        **attributes: str | float | list[int],
    ) -> Value:
        """Write a node.

        Args:
            kind: an operator of the standard domain with one output.
            inputs: its inputs; None leaves an optional one out.
            name: of its output; a new one by default.
            dtype: of its output; that of the first input by default.
            attributes: its attributes.

        Returns:
            Its output.
        """
        given = [value for value in inputs if value is not None]
        made = Value(self, name or self._name("v"), given[0].dtype if dtype is None else np.dtype(dtype))
        names = [value.name if value is not None else "" for value in inputs]
        # Named, since older runtimes name what they fuse after it, and refuse two of one name.
        node = helper.make_node(kind, names, [made.name], f"{kind}_{made.name}")
        node.attribute.extend(helper.make_attribute(key, value) for key, value in attributes.items())
        self._scopes[-1].nodes.append(node)
        return made

    def concat(self, *values: Value, axis: int) -> Value:
        """Several values joined along an axis."""
        return values[0] if len(values) == 1 else self.node("Concat", *values, axis=axis)

    def stack(self, *values: Value, axis: int) -> Value:
        """Several values joined along a new axis."""
        return self.concat(*(value.unsqueeze(axis) for value in values), axis=axis)

    def size(self, value: Value, axis: int) -> Value:
        """How many slices there are along an axis, a scalar int64."""
        return self.node("Shape", value, dtype=np.int64).take(axis, 0)

    def span(self, count: Value) -> Value:
        """0, 1, 2 ... before a scalar, of its type."""
        zero, one = (self.constant(np.array(number, count.dtype)) for number in (0, 1))
        return self.node("Range", zero, count, one)

    def branch(
        self, condition: Value, yes: Callable[[], Sequence[Value]], no: Callable[[], Sequence[Value]]
    ) -> list[Value]:
        """What one of two functions gives; only that one's nodes run.

        Args:
            condition: a scalar bool.
            yes: writes the nodes for true.
            no: writes those for false, as many values of the same types.

        Returns:
            The values.
        """
        bodies: dict[str, onnx.GraphProto] = {}
        values: list[Value] = []
        for key, write in (("then_branch", yes), ("else_branch", no)):
            with self._inside() as scope:
                values = [self.node("Identity", value) for value in write()]  # as what is outside is no output
                bodies[key] = self._body(scope, key, [], _infos(values))
        return self._control("If", [condition], bodies, values)

    def loop(
        self,
        count: Value,
        write: Callable[[Value, list[Value]], Sequence[Value]],
        *,
        state: Sequence[Value] = (),
        shapes: Sequence[Shape] = (),
    ) -> list[Value]:
        """Nodes that run several times.

        Args:
            count: how often, a scalar int64.
            write: writes the nodes; takes the turn, a scalar int64, and the state, and gives the new state and then
                what is to be gathered from every turn.
            state: before the first turn.
            shapes: of the values to be gathered, without the turns.

        Returns:
            The state after the last turn; then what was gathered, turns first.
        """
        with self._inside() as scope:
            turn = self.input(self._name("turn"), np.int64)
            going = self.input(self._name("going"), np.bool_)
            carried = [Value(self, self._name("state"), value.dtype) for value in state]
            always = self.constant(np.array(True))  # noqa: FBT003 (an array of it)
            values = [self.node("Identity", value) for value in (always, *write(turn, carried))]
            sides: list[Shape | None] = [[], *[None] * len(state), *shapes]
            before = [*_infos([turn, going], [[], []]), *_infos(carried)]
            body = self._body(scope, "body", before, _infos(values, sides))
        return self._control("Loop", [count, None, *state], {"body": body}, values[1:])

    def model(
        self,
        name: str,
        inputs: Mapping[str, tuple[type[np.generic], Shape]],
        outputs: Mapping[str, tuple[Value, Shape]],
        texts: Mapping[str, str] | None = None,
    ) -> onnx.ModelProto:
        """All that was written, as a model.

        Args:
            name: of the graph.
            inputs: types and shapes by name; a side of a text is any number.
            outputs: values and shapes by name.
            texts: for each input and output what it is, if anything is to be said.
        """
        texts = texts or {}
        named = {key: self.node("Identity", value, name=key) for key, (value, _) in outputs.items()}
        scope = self._scopes[0]
        graph = helper.make_graph(
            scope.nodes,
            name,
            [
                helper.make_tensor_value_info(key, _kind(np.dtype(dtype)), shape, texts.get(key, ""))
                for key, (dtype, shape) in inputs.items()
            ],
            [
                helper.make_tensor_value_info(key, _kind(value.dtype), outputs[key][1], texts.get(key, ""))
                for key, value in named.items()
            ],
            scope.constants,
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)])
        model.ir_version = _IR_VERSION
        return model

    def _name(self, prefix: str) -> str:
        self._names += 1
        return f"{prefix}{self._names}"

    @contextmanager
    def _inside(self) -> Iterator[_Scope]:
        self._scopes.append(_Scope())
        try:
            yield self._scopes[-1]
        finally:
            self._scopes.pop()

    def _body(
        self,
        scope: _Scope,
        name: str,
        inputs: list[onnx.ValueInfoProto],
        outputs: list[onnx.ValueInfoProto],
    ) -> onnx.GraphProto:
        return helper.make_graph(scope.nodes, self._name(name), inputs, outputs, scope.constants)

    def _control(
        self, kind: str, inputs: Sequence[Value | None], bodies: Mapping[str, onnx.GraphProto], inner: Sequence[Value]
    ) -> list[Value]:
        values = [Value(self, self._name("v"), value.dtype) for value in inner]
        names = [value.name if value is not None else "" for value in inputs]
        node = helper.make_node(kind, names, [value.name for value in values], self._name(kind), **bodies)
        self._scopes[-1].nodes.append(node)
        return values


def _kind(dtype: np.dtype[Any]) -> int:
    return int(helper.np_dtype_to_tensor_dtype(dtype))


def _infos(values: Sequence[Value], shapes: Sequence[Shape | None] | None = None) -> list[onnx.ValueInfoProto]:
    """Names and types; of a body's values the shapes only where the runtime needs them."""
    sides = [None] * len(values) if shapes is None else shapes
    return [
        helper.make_tensor_value_info(value.name, _kind(value.dtype), shape)
        for value, shape in zip(values, sides, strict=True)
    ]
