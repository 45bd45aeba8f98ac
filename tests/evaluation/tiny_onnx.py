"""Small ONNX files, written by hand: the `onnx` package wants another protobuf than MediaPipe.

Field numbers are those of `onnx.proto`: ModelProto ir_version 1, graph 7, opset_import 8; GraphProto node 1, name 2,
input 11, output 12; NodeProto input 1, output 2, op_type 4, attribute 5; AttributeProto name 1, i 3, ints 8, type 20;
ValueInfoProto name 1, type 2; TypeProto tensor_type 1; Tensor elem_type 1, shape 2; Dimension dim_value 1, dim_param 2.
"""

from pathlib import Path


def write_mean_colour(path: Path, size: int | str) -> None:
    """Write a network from (1, 3, size, size) to the mean of each channel, (1, 3)."""
    axes = _bytes(1, b"axes") + _integer(8, 2) + _integer(8, 3) + _integer(20, 7)
    flat = _bytes(1, b"keepdims") + _integer(3, 0) + _integer(20, 2)
    node = _bytes(1, b"x") + _bytes(2, b"y") + _bytes(4, b"ReduceMean") + _bytes(5, axes) + _bytes(5, flat)
    values = _bytes(11, _tensor("x", 1, 3, size, size)) + _bytes(12, _tensor("y", 1, 3))
    graph = _bytes(1, node) + _bytes(2, b"g") + values
    path.write_bytes(_integer(1, 8) + _bytes(7, graph) + _bytes(8, _integer(2, 13)))


def _tensor(name: str, *shape: int | str) -> bytes:
    sizes = (_bytes(2, size.encode()) if isinstance(size, str) else _integer(1, size) for size in shape)
    return _bytes(1, name.encode()) + _bytes(
        2, _bytes(1, _integer(1, 1) + _bytes(2, b"".join(_bytes(1, size) for size in sizes)))
    )


def _bytes(field: int, payload: bytes) -> bytes:
    return _varint(field << 3 | 2) + _varint(len(payload)) + payload


def _integer(field: int, value: int) -> bytes:
    return _varint(field << 3) + _varint(value)


def _varint(value: int) -> bytes:
    digits = [value >> shift & 127 | 128 for shift in range(0, max(value.bit_length(), 1), 7)]
    return bytes((*digits[:-1], digits[-1] & 127))
