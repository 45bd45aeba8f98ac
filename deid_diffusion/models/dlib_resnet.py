"""dlib's face recognition network, a ResNet of 29 convolutions, in torch: read from dlib's own file, run in batches.

Sources: the layout is ``face_recognition_model_v1`` of dlib's ``tools/python/src/face_recognition.cpp``, the format of
the file that of the ``serialize`` functions in dlib's ``dnn`` headers (Boost Software License). The code is this
module's own, and dlib itself is not needed.
"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

SIDE = 150
"""Of the network's input, in pixels."""

DIMENSIONS = 128
"""Of the network's output."""

_STEM = 32  # channels
#: Channels of each residual block, in the order they are applied, and whether it halves height and width.
_BLOCKS = (
    *((32, False),) * 3,
    *((64, True), *((64, False),) * 3),
    *((128, True), *((128, False),) * 2),
    *((256, True), *((256, False),) * 2),
    (256, True),
)

#: The file opens with the format version of each nested layer, outermost first: 1 is a tag or a skip, 2 any other
#: layer, 3 the one that reads the images. So they tell where the shortcuts begin.
_TOP, _PLAIN, _DOWN, _BOTTOM = (2, 2), (2, 2, 2, 2, 2, 2, 2, 1), (2, 2, 2, 1, 1, 2, 2, 2, 2, 2, 1), (2, 2, 2, 3)
_VERSIONS = (*_TOP, *(v for _, down in reversed(_BLOCKS) for v in (_DOWN if down else _PLAIN)), *_BOTTOM)


class DlibFaceNetwork(nn.Module):
    """(N, 3, 150, 150) RGB, 0 to 255 -> (N, 128) float32, not normalised.

    dlib's affine layers, which is what its batch normalisation becomes, are folded into the convolutions before them.
    """

    mean: torch.Tensor

    def __init__(self) -> None:
        """A network with random weights; `load` makes one with dlib's."""
        super().__init__()
        inputs = (_STEM, *(outputs for outputs, _ in _BLOCKS))
        self.register_buffer("mean", torch.zeros(3, 1, 1))
        self.stem = nn.Conv2d(3, _STEM, 7, stride=2)
        self.blocks = nn.ModuleList(
            _Residual(before, outputs, down=down) for before, (outputs, down) in zip(inputs, _BLOCKS, strict=False)
        )
        self.head = nn.Linear(inputs[-1], DIMENSIONS, bias=False)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """See the class. Raises ValueError for images of another shape."""
        if images.ndim != 4 or images.shape[1:] != (3, SIDE, SIDE):
            raise ValueError(f"images: expected (N, 3, {SIDE}, {SIDE}), got {tuple(images.shape)}")
        x = F.max_pool2d(F.relu(self.stem((images - self.mean) / 256)), 3, stride=2)
        for block in self.blocks:
            x = block(x)
        return self.head(x.mean((2, 3)))


class _Residual(nn.Module):
    """(N, inputs, h, w) -> (N, outputs, h, w), h and w halved if `down`: two convolutions, added to what came in."""

    def __init__(self, inputs: int, outputs: int, *, down: bool) -> None:
        super().__init__()
        self.down = down
        self.first = nn.Conv2d(inputs, outputs, 3, stride=2 if down else 1, padding=0 if down else 1)
        self.second = nn.Conv2d(outputs, outputs, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """See the class. Where one term of dlib's sum ends, on the right, below or in channels, it counts as 0."""
        found = self.second(F.relu(self.first(x)))
        if self.down:
            x = F.avg_pool2d(x, 2)
            found = F.pad(found, (0, x.shape[3] - found.shape[3], 0, x.shape[2] - found.shape[2]))
            x = F.pad(x, (0, 0, 0, 0, 0, found.shape[1] - x.shape[1]))
        return F.relu(found + x)


def load(path: Path) -> DlibFaceNetwork:
    """The network in dlib's file ``dlib_face_recognition_resnet_model_v1.dat``: on the CPU, frozen, channels last.

    Raises:
        OSError: for a file that cannot be read.
        ValueError: with one line, for a file that holds anything but this network.
    """
    reader = _Reader(path.read_bytes())
    try:
        network = _network(reader)
    except ValueError as error:
        raise ValueError(f"{path} is not dlib's face recognition network: {error}") from error
    return network.to(memory_format=torch.channels_last)


@torch.no_grad()
def _network(reader: _Reader) -> DlibFaceNetwork:
    """The network that a whole file holds. Raises ValueError where the file says anything else."""
    network = DlibFaceNetwork().requires_grad_(False).eval()
    reader.expect("version", (reader.integer(),), (1,))
    reader.expect_name("loss_metric_2")
    reader.reals(2)  # margin and distance of the loss
    reader.expect("layers", tuple(reader.integer() for _ in _VERSIONS), _VERSIONS)
    reader.expect_name("input_rgb_image_sized")
    network.mean.copy_(torch.tensor(reader.reals(3)).view(3, 1, 1))
    reader.expect("input size", (reader.integer(), reader.integer()), (SIDE, SIDE))
    _read_convolution(reader, network.stem, first=True)
    _read_plain(reader, "relu_")
    _read_plain(reader, "max_pool_2", 3, 3, 2, 2, 0, 0)
    for block in network.blocks:
        assert isinstance(block, _Residual)
        _read_convolution(reader, block.first)
        _read_plain(reader, "relu_")
        _read_convolution(reader, block.second)
        if block.down:
            _read_plain(reader, "avg_pool_2", 2, 2, 2, 2, 0, 0)
        _read_plain(reader, "add_prev_")
        _read_plain(reader, "relu_")
    _read_plain(reader, "avg_pool_2", 0, 0, 1, 1, 0, 0)  # 0: a window as large as what comes in
    _read_head(reader, network.head)
    reader.expect("bytes left over", (reader.left,), (0,))
    return network


def _read_plain(reader: _Reader, name: str, *numbers: int) -> None:
    """A layer without weights; a pooling's numbers are its window, stride and padding, each y before x."""
    reader.expect_name(name)
    reader.expect(name, tuple(reader.integer() for _ in numbers), numbers)
    reader.layer_end()


def _read_convolution(reader: _Reader, conv: nn.Conv2d, *, first: bool = False) -> None:
    """A convolution and the affine layer after it, gamma * y + beta for each channel, into one convolution."""
    assert conv.bias is not None
    outputs, size = conv.out_channels, conv.weight.numel()
    reader.expect_name("con_4")
    weights = reader.tensor(size + outputs)
    numbers = (outputs, *conv.kernel_size, *conv.stride, *conv.padding)
    reader.expect("convolution", tuple(reader.integer() for _ in numbers), numbers)
    reader.views(2)
    reader.reals(4)  # of the training
    reader.layer_end()
    if first:
        reader.expect("sample expansion", (reader.integer(),), (1,))
    reader.expect_name("affine_")
    gamma, beta = reader.tensor(2 * outputs).view(2, outputs)
    reader.views(2)
    reader.expect("affine mode", (reader.integer(),), (0,))  # 0: a pair for each channel, not for each element
    reader.layer_end()
    conv.weight.copy_(weights[:size].view_as(conv.weight) * gamma.view(-1, 1, 1, 1))
    conv.bias.copy_(weights[size:] * gamma + beta)


def _read_head(reader: _Reader, head: nn.Linear) -> None:
    """The last layer, whose weights dlib keeps as (inputs, outputs)."""
    reader.expect_name("fc_2")
    size = (head.out_features, head.in_features)
    reader.expect("last layer", (reader.integer(), reader.integer()), size)
    head.weight.copy_(reader.tensor(head.weight.numel()).view(size[::-1]).T)
    reader.views(2)
    reader.expect("bias mode", (reader.integer(),), (1,))  # 1: none
    reader.reals(4)
    reader.layer_end()


class _Reader:
    """Reads what dlib's ``serialize`` wrote, from the first byte to the last. Every method may raise ValueError."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    @property
    def left(self) -> int:
        """Bytes not read yet."""
        return len(self._data) - self._at

    def expect(self, what: str, found: tuple[int, ...], wanted: tuple[int, ...]) -> None:
        """Raise ValueError if the file has other numbers than the network."""
        if found != wanted:
            at = next(place for place, (a, b) in enumerate(zip(found, wanted, strict=True)) if a != b)
            raise ValueError(f"{what}: expected {wanted[at]}, found {found[at]}, before byte {self._at:,}")

    def expect_name(self, wanted: str) -> None:
        """Raise ValueError unless the text that comes next, which is the name of a layer, is the one of the network."""
        if self.integer() != len(wanted) or self._take(len(wanted)) != wanted.encode():
            raise ValueError(f"no layer {wanted} before byte {self._at:,}")

    def integer(self) -> int:
        """One byte with the number of bytes in its low half and the sign in its highest bit, then the bytes."""
        control = self._take(1)[0]
        size = control & 0x0F
        if not 1 <= size <= 8 or control & 0x70:
            raise ValueError(f"no number at byte {self._at - 1:,}")
        value = int.from_bytes(self._take(size), "little")
        return -value if control & 0x80 else value

    def reals(self, count: int) -> list[float]:
        """Real numbers, each written as two integers: mantissa and binary exponent."""
        parts = [(self.integer(), self.integer()) for _ in range(count)]
        if any(abs(exponent) > 200 for _, exponent in parts):  # dlib marks infinities and no number by 32,000 and more
            raise ValueError(f"no real number before byte {self._at:,}")
        return [math.ldexp(mantissa, exponent) for mantissa, exponent in parts]

    def tensor(self, size: int) -> torch.Tensor:
        """(size,) float32: version 2, four dimensions as numbers, the values as they lie in memory."""
        self.expect("tensor version", (self.integer(),), (2,))
        dimensions = [self.integer() for _ in range(4)]
        self.expect("numbers in a tensor", (math.prod(dimensions),), (size,))
        return torch.from_numpy(np.frombuffer(self._take(4 * size), "<f4").astype(np.float32))

    def views(self, count: int) -> None:
        """Where in a layer's tensor each of its parts lies, which follows from their sizes: passed over."""
        for _ in range(5 * count):
            self.integer()

    def layer_end(self) -> None:
        """What a layer keeps for training: three flags and three tensors, which are empty."""
        if set(self._take(3)) - set(b"01"):
            raise ValueError(f"no flags before byte {self._at:,}")
        for _ in range(3):
            self.tensor(0)

    def _take(self, size: int) -> bytes:
        if size > self.left:
            raise ValueError(f"it ends early, at byte {len(self._data):,}")
        self._at += size
        return self._data[self._at - size : self._at]
