"""The network gives dlib's own numbers, and only dlib's own file is taken for it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from deid_diffusion.faces.landmarks import FaceMesh, five_points
from deid_diffusion.identity.recognition import face_chip, model_file
from deid_diffusion.models.dlib_resnet import DIMENSIONS, SIDE, DlibFaceNetwork, load


@pytest.fixture(scope="module")
def network() -> DlibFaceNetwork:
    return load(model_file())


@pytest.fixture(scope="module")
def chips(astronaut: np.ndarray) -> np.ndarray:
    """(6, 150, 150, 3) uint8: a face, its mirror image, two darker or shifted ones, and two pictures of nothing."""
    mesh = FaceMesh()(astronaut[20:220, 120:320])
    assert mesh is not None
    face = face_chip(astronaut, five_points(mesh) + np.array((120, 20), np.float32))
    noise = np.random.default_rng(0).integers(0, 256, face.shape, np.uint8)
    return np.stack([face, face[:, ::-1], face // 3, np.roll(face, 12, 0), noise, np.zeros_like(face)])


def numbers(network: DlibFaceNetwork, chips: np.ndarray) -> np.ndarray:
    """(N, 128) of chips (N, 150, 150, 3)."""
    with torch.inference_mode():
        return network(torch.from_numpy(chips.astype(np.float32)).permute(0, 3, 1, 2)).numpy()


def test_same_numbers_as_dlib(network: DlibFaceNetwork, chips: np.ndarray):
    dlib = pytest.importorskip("dlib")
    theirs = dlib.face_recognition_model_v1(str(model_file()))
    wanted = np.array([theirs.compute_face_descriptor(np.ascontiguousarray(chip)) for chip in chips])
    assert np.abs(wanted).max() > 0.1
    np.testing.assert_allclose(numbers(network, chips), wanted, atol=1e-5)


def test_known_numbers(network: DlibFaceNetwork):
    """What dlib gives for a chip of one colour: holds where dlib is not installed."""
    found = numbers(network, np.full((1, SIDE, SIDE, 3), (200, 150, 100), np.uint8))[0]
    assert found.shape == (DIMENSIONS,)
    np.testing.assert_allclose(found[:4], (-0.048827, 0.126099, 0.046338, -0.002038), atol=1e-5)


def test_batch_equals_single(network: DlibFaceNetwork, chips: np.ndarray):
    alone = np.concatenate([numbers(network, chip[None]) for chip in chips])
    np.testing.assert_allclose(numbers(network, chips), alone, atol=1e-5)


def test_other_sizes_are_refused(network: DlibFaceNetwork):
    with pytest.raises(ValueError, match=r"expected \(N, 3, 150, 150\), got \(1, 3, 160, 160\)"):
        network(torch.zeros(1, 3, 160, 160))


def test_weights_are_frozen(network: DlibFaceNetwork):
    assert not network.training
    assert not any(weights.requires_grad for weights in network.parameters())


@pytest.mark.parametrize("share", [0, 1e-6, 1e-5, 0.001, 0.5, 0.999999])
def test_truncated_file(tmp_path: Path, share: float):
    data = model_file().read_bytes()
    (path := tmp_path / "short.dat").write_bytes(data[: int(share * len(data))])
    refused(path, "it ends early")


@pytest.mark.parametrize(
    ("at", "byte", "why"),
    [
        (1, 9, "version: expected 1, found 9"),
        (6, ord("x"), "no layer loss_metric_2"),
        (32, 1, "layers: expected 2, found 1"),
        (300, ord("x"), "no layer input_rgb_image_sized"),
        (0, 0x70, "no number at byte 0"),
        (-33, ord("x"), "no flags before byte"),
    ],
)
def test_changed_file(tmp_path: Path, at: int, byte: int, why: str):
    data = bytearray(model_file().read_bytes())
    data[at] = byte
    (path := tmp_path / "changed.dat").write_bytes(data)
    refused(path, why)


def test_file_with_more(tmp_path: Path):
    (path := tmp_path / "long.dat").write_bytes(model_file().read_bytes() + b"\1\0")
    refused(path, "bytes left over: expected 0, found 2")


@pytest.mark.parametrize(
    "data", [b"<!DOCTYPE html>\n<p>not found", bytes(5000), bytes(range(256)) * 99, b"\x01" * 5000]
)
def test_foreign_file(tmp_path: Path, data: bytes):
    (path := tmp_path / "foreign.dat").write_bytes(data)
    refused(path, "")


def refused(path: Path, why: str) -> None:
    """The file's refusal names it and says why, in one line."""
    with pytest.raises(ValueError, match=r"\.dat is not dlib's face recognition network: .*" + why) as caught:
        load(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
