"""dlib's face recognition network, a ResNet of 29 convolutions, in torch.

The layout is ``face_recognition_model_v1`` of dlib's ``tools/python/src/face_recognition.cpp`` (Boost Software
License). The code is this module's own, and dlib itself is not needed.
"""

from __future__ import annotations

import hashlib
import math
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

SIDE = 150
"""Of the network's input, in pixels."""

EMBEDDING_DIM = 128
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
_MEAN = (122.782, 117.001, 104.298)  # of red, green and blue, as dlib's file states it
_SHA256 = "55533b28a95800a551ba546ba62fe69625c7e95a7061c338adffead08719da30"


class DlibFaceNetwork(nn.Module):
    """(N, 3, 150, 150) RGB, 0 to 255 -> (N, 128) float32, not normalised.

    dlib's affine layers, which replace batch normalisation after training, are folded into the convolutions.
    """

    mean: torch.Tensor

    def __init__(self) -> None:
        """Create the network with random weights; `load` reads dlib's."""
        super().__init__()
        inputs = (_STEM, *(outputs for outputs, _ in _BLOCKS))
        self.register_buffer("mean", torch.tensor(_MEAN).view(3, 1, 1))
        self.stem = nn.Conv2d(3, _STEM, 7, stride=2)
        self.blocks = nn.ModuleList(
            _Residual(before, outputs, down=down) for before, (outputs, down) in zip(inputs, _BLOCKS, strict=False)
        )
        self.head = nn.Linear(inputs[-1], EMBEDDING_DIM, bias=False)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """See the class. Raises ValueError for images of another shape."""
        if images.ndim != 4 or images.shape[1:] != (3, SIDE, SIDE):
            raise ValueError(f"images: expected (N, 3, {SIDE}, {SIDE}), got {tuple(images.shape)}")
        x = F.max_pool2d(F.relu(self.stem((images - self.mean) / 256)), 3, stride=2)
        for block in self.blocks:
            x = block(x)
        return self.head(x.mean((2, 3)))


class _Residual(nn.Module):
    """(N, inputs, h, w) -> (N, outputs, h, w), h and w halved if `down`: two convolutions and a shortcut."""

    def __init__(self, inputs: int, outputs: int, *, down: bool) -> None:
        super().__init__()
        self.down = down
        self.first = nn.Conv2d(inputs, outputs, 3, stride=2 if down else 1, padding=0 if down else 1)
        self.second = nn.Conv2d(outputs, outputs, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """See the class. As in dlib's sum, the smaller term is padded with 0 on the right, below and in channels."""
        residual = self.second(F.relu(self.first(x)))
        if self.down:
            x = F.avg_pool2d(x, 2)
            residual = F.pad(residual, (0, x.shape[3] - residual.shape[3], 0, x.shape[2] - residual.shape[2]))
            x = F.pad(x, (0, 0, 0, 0, 0, residual.shape[1] - x.shape[1]))
        return F.relu(residual + x)


@torch.no_grad()
def load(path: Path) -> DlibFaceNetwork:
    """Read the network from dlib's file ``dlib_face_recognition_resnet_model_v1.dat``: on the CPU, frozen.

    Raises:
        OSError: for a file that cannot be read.
        ValueError: with one line, for any other file.
    """
    data = path.read_bytes()
    if hashlib.sha256(data).hexdigest() != _SHA256:
        raise ValueError(f"{path} is not dlib's face recognition network: its SHA-256 is not {_SHA256}")
    network = DlibFaceNetwork().requires_grad_(False).eval()
    end = 0

    def read(*shape: int) -> torch.Tensor:
        """Return the next tensor of a shape: its header is a version, 2, and four dimensions, each after its size."""
        nonlocal end
        sizes = [
            size.to_bytes((size.bit_length() + 7) // 8, "little") for size in (2, *shape, *(1, 1, 1, 1)[len(shape) :])
        ]
        header = b"".join(bytes([len(size)]) + size for size in sizes)
        start = data.index(header, end) + len(header)
        end = start + 4 * math.prod(shape)
        return torch.frombuffer(bytearray(data[start:end]), dtype=torch.float32).view(shape)

    for conv in network.modules():
        if isinstance(conv, nn.Conv2d):
            assert conv.bias is not None
            weights, bias = read(conv.weight.numel() + conv.out_channels).tensor_split([conv.weight.numel()])
            gamma, beta = read(2 * conv.out_channels).chunk(2)
            conv.weight.copy_(weights.view_as(conv.weight) * gamma.view(-1, 1, 1, 1))
            conv.bias.copy_(bias * gamma + beta)
    network.head.weight.copy_(read(network.head.in_features, EMBEDDING_DIM).T)
    return network.to(memory_format=torch.channels_last)
