"""Free the input size of an ONNX model that was exported for one fixed size.

CenterFace ships with its input fixed to (10, 3, 32, 32), while its layers (convolutions only) accept any size. Its
weights are also listed as inputs, as old exporters did, which keeps the runtime from folding them. Both are facts of
the file's header, changed here in the file's own protobuf encoding, because the `onnx` package wants a
protobuf that MediaPipe does not run with.
Source of the field numbers: `onnx.proto` (ModelProto.graph = 7; GraphProto.input = 11, output = 12, value_info = 13;
ValueInfoProto.name = 1, type = 2; TypeProto.tensor_type = 1; Tensor.elem_type = 1, shape = 2; Dimension.dim_value = 1,
dim_param = 2).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

_FLOAT = 1  # TensorProto.DataType.FLOAT
_VARINT, _EIGHT_BYTES, _LENGTH_PREFIXED, _FOUR_BYTES = 0, 1, 2, 5  # wire types


def with_free_shape(model: bytes, input_name: str, shape: Sequence[int | str]) -> bytes:
    """The same ONNX model, with `input_name` (float32) as its only input and sizes that follow from it.

    Args:
        model: a serialised ONNX ModelProto.
        input_name: the graph input that stays an input; the others must have initialisers, and become constants.
        shape: its new shape; an int is a fixed size, a string names a free one: ("batch", 3, "height", "width").

    Raises:
        ValueError: `model` is no ONNX model or has no input of that name.
    """
    new_input = bytes_field(11, value_info(input_name, shape))
    found = False
    top: list[bytes] = []
    for number, raw, payload in _fields(model):
        if number != 7:
            top.append(raw)
            continue
        graph: list[bytes] = []
        for graph_number, graph_raw, graph_payload in _fields(payload):
            if graph_number == 11:
                if _name(graph_payload) == input_name:
                    graph.append(new_input)
                    found = True
            elif graph_number == 12:
                graph.append(bytes_field(12, value_info(_name(graph_payload), None)))
            elif graph_number != 13:
                graph.append(graph_raw)
        top.append(bytes_field(7, b"".join(graph)))
    if not found:
        raise ValueError(f"model: expected an ONNX model with the input {input_name!r}, found no such input")
    return b"".join(top)


def value_info(name: str, shape: Sequence[int | str] | None) -> bytes:
    """A ValueInfoProto for a float tensor.

    Args:
        name: of the tensor.
        shape: an int is a fixed size, a string names a free one; None leaves the shape open.
    """
    tensor = integer_field(1, _FLOAT)
    if shape is not None:
        dims = (bytes_field(2, d.encode()) if isinstance(d, str) else integer_field(1, d) for d in shape)
        tensor += bytes_field(2, b"".join(bytes_field(1, dim) for dim in dims))
    return bytes_field(1, name.encode()) + bytes_field(2, bytes_field(1, tensor))


def bytes_field(number: int, payload: bytes) -> bytes:
    """One length-prefixed field of a message: a text, bytes, or a message of its own."""
    return _varint(number << 3 | _LENGTH_PREFIXED) + _varint(len(payload)) + payload


def integer_field(number: int, value: int) -> bytes:
    """One field of a message that is an integer, 0 or more."""
    return _varint(number << 3 | _VARINT) + _varint(value)


def _name(message: bytes) -> str:
    """Field 1 of a message, as text."""
    return next((payload.decode() for number, _, payload in _fields(message) if number == 1), "")


def _varint(value: int) -> bytes:
    """A non-negative integer in base 128, low digits first."""
    digits = bytearray()
    while value > 127:
        digits.append(value & 127 | 128)
        value >>= 7
    digits.append(value)
    return bytes(digits)


def _fields(message: bytes) -> Iterator[tuple[int, bytes, bytes]]:
    """Number, raw bytes and payload (empty unless length-prefixed) of each field of a message, in order."""
    at = 0
    try:
        while at < len(message):
            start = at
            key, at = _read_varint(message, at)
            number, wire = key >> 3, key & 7
            payload = b""
            if wire == _VARINT:
                _, at = _read_varint(message, at)
            elif wire == _LENGTH_PREFIXED:
                size, at = _read_varint(message, at)
                payload = message[at : at + size]
                at += size
            elif wire in (_EIGHT_BYTES, _FOUR_BYTES):
                at += 8 if wire == _EIGHT_BYTES else 4
            else:
                raise IndexError
            if at > len(message):
                raise IndexError
            yield number, message[start:at], payload
    except IndexError:
        raise ValueError("model: expected a serialised ONNX model, found bytes that do not decode as one") from None


def _read_varint(message: bytes, at: int) -> tuple[int, int]:
    """The integer that starts at `at`, and where the next field starts."""
    value = shift = 0
    while True:
        digit = message[at]
        at += 1
        value |= (digit & 127) << shift
        shift += 7
        if digit < 128:
            return value, at
