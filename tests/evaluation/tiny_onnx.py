"""Small ONNX files, written by hand: the `onnx` package wants another protobuf than MediaPipe.

Field numbers are those of `onnx.proto`: ModelProto ir_version 1, graph 7, opset_import 8; GraphProto node 1, name 2,
input 11, output 12; NodeProto input 1, output 2, op_type 4, attribute 5; AttributeProto name 1, i 3, ints 8, type 20.
"""

from pathlib import Path

from deid_diffusion.faces.detectors import bytes_field, integer_field, value_info


def write_mean_colour(path: Path, size: int | str) -> None:
    """A network from (1, 3, size, size) to the mean of each channel, (1, 3)."""
    axes = bytes_field(1, b"axes") + integer_field(8, 2) + integer_field(8, 3) + integer_field(20, 7)
    flat = bytes_field(1, b"keepdims") + integer_field(3, 0) + integer_field(20, 2)
    node = bytes_field(1, b"x") + bytes_field(2, b"y") + bytes_field(4, b"ReduceMean")
    node += bytes_field(5, axes) + bytes_field(5, flat)
    inputs = bytes_field(11, value_info("x", (1, 3, size, size)))
    outputs = bytes_field(12, value_info("y", (1, 3)))
    graph = bytes_field(1, node) + bytes_field(2, b"g") + inputs + outputs
    path.write_bytes(integer_field(1, 8) + bytes_field(7, graph) + bytes_field(8, integer_field(2, 13)))
