"""A builder of ONNX graphs, node by node."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, ValueInfoProto, helper, numpy_helper

from opensnac.errors import ModelError
from opensnac.export.weights import Array

OPSET, IR_VERSION = 18, 9
STORED = ("fp32", "fp16", "int8")  # storage formats of weights; computation is always in float32
FLOAT, INT64 = TensorProto.FLOAT, TensorProto.INT64

Metadata = dict[str, Any]  # string keys, JSON values

END = np.iinfo(np.int64).max  # an open end of a slice


class Graph:
    """Adds a node per call, `graph("Add", x, y)`, and returns the name of its output.

    Large weights are stored in the format `stored` and widened when a runtime folds constants on loading.
    """

    def __init__(self, stored: str = "fp32") -> None:
        self._stored = stored
        self._nodes: list[Any] = []
        self._constants: dict[tuple[str, tuple[int, ...], bytes], str] = {}
        self._initializers: list[TensorProto] = []
        self._inputs: list[ValueInfoProto] = []
        self._outputs: list[ValueInfoProto] = []

    def __call__(self, op: str, *inputs: str, **attributes: Any) -> str:
        """Add a node with one output."""
        return self.several(op, inputs, 1, **attributes)[0]

    def several(self, op: str, inputs: Sequence[str], count: int, **attributes: Any) -> list[str]:
        """Add a node with several outputs."""
        outputs = [f"{op}_{len(self._nodes)}" + (f"_{i}" if count > 1 else "") for i in range(count)]
        self._nodes.append(helper.make_node(op, list(inputs), outputs, name=f"{op}_{len(self._nodes)}", **attributes))
        return outputs

    def input(self, name: str, kind: int, shape: Sequence[int | str], default: NDArray[Any] | None = None) -> str:
        """Add an input, optional if it has a default."""
        self._inputs.append(helper.make_tensor_value_info(name, kind, shape))
        if default is not None:
            self._initializers.append(numpy_helper.from_array(default, name))
        return name

    def output(self, value: str, name: str, kind: int, shape: Sequence[int | str]) -> None:
        """Make a value the output `name`."""
        self._nodes.append(helper.make_node("Identity", [value], [name], name=f"output_{name}"))
        self._outputs.append(helper.make_tensor_value_info(name, kind, shape))

    def integers(self, *values: int) -> str:
        """A one-dimensional constant."""
        return self.constant(np.array(values, np.int64))

    def number(self, value: int) -> str:
        """A scalar constant."""
        return self.constant(np.array(value, np.int64))

    def constant(self, values: NDArray[Any]) -> str:
        """An array, stored once, unchanged."""
        key = (values.dtype.str, values.shape, values.tobytes())
        if key not in self._constants:
            self._constants[key] = f"constant_{len(self._initializers)}"
            self._initializers.append(numpy_helper.from_array(values, self._constants[key]))
        return self._constants[key]

    def weight(self, values: Array, axis: int | None) -> str:
        """A large weight; int8 has a scale per index of `axis`, the output channels. None stores it in float16."""
        if self._stored == "fp32":
            return self.constant(values)
        if self._stored == "int8" and axis is not None:
            others = tuple(i for i in range(values.ndim) if i != axis)
            scale = np.maximum(np.abs(values).max(axis=others, keepdims=True), np.float32(1e-12)) / 127
            whole = self("Cast", self.constant(np.rint(values / scale).astype(np.int8)), to=FLOAT)
            return self("Mul", whole, self.constant(scale.astype(np.float32)))
        largest = float(np.abs(values).max())
        if largest > float(np.finfo(np.float16).max):
            raise ModelError(
                f"expected weights in the range of float16, got {largest:.3g}; export this model with fp32"
            )
        return self("Cast", self.constant(values.astype(np.float16)), to=FLOAT)

    def model(self, name: str, metadata: Metadata) -> ModelProto:
        """The finished graph as a model."""
        graph = helper.make_graph(self._nodes, name, self._inputs, self._outputs, self._initializers)
        model = helper.make_model(
            graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION, producer_name="opensnac"
        )
        helper.set_model_props(model, {key: _text(value) for key, value in metadata.items()})
        return model


def metadata_of(model: ModelProto) -> Metadata:
    """The metadata of a model."""
    return {entry.key: _value(entry.value) for entry in model.metadata_props}


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text
