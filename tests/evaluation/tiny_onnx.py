"""Small ONNX files, written by hand: the `onnx` package wants another protobuf than MediaPipe.

Field numbers are those of `onnx.proto`: ModelProto ir_version 1, graph 7, opset_import 8; GraphProto node 1, name 2,
input 11, output 12; NodeProto input 1, output 2, op_type 4, attribute 5; AttributeProto name 1, i 3, ints 8, type 20.
"""

from pathlib import Path

from deid_diffusion.faces.onnx_shapes import _field, _value_info, _varint


def number(field: int, value: int) -> bytes:
    return _varint(field << 3) + _varint(value)


def write_mean_colour(path: Path, size: int | str) -> None:
    """A network from (1, 3, size, size) to the mean of each channel, (1, 3)."""
    axes = _field(1, b"axes") + number(8, 2) + number(8, 3) + number(20, 7)
    flat = _field(1, b"keepdims") + number(3, 0) + number(20, 2)
    node = _field(1, b"x") + _field(2, b"y") + _field(4, b"ReduceMean") + _field(5, axes) + _field(5, flat)
    inputs = _field(11, _value_info("x", (1, 3, size, size)))
    outputs = _field(12, _value_info("y", (1, 3)))
    graph = _field(1, node) + _field(2, b"g") + inputs + outputs
    path.write_bytes(number(1, 8) + _field(7, graph) + _field(8, number(2, 13)))
