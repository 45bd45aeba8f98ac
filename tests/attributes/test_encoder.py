from pathlib import Path

import numpy as np
import pytest
import torch

from deid_diffusion.attributes.encoder import encode_attributes, labels_tensor, region_weights
from deid_diffusion.attributes.subspace import FEATURE_NAMES
from deid_diffusion.faces.semantic_map import draw_semantic_map, mean_mesh
from deid_diffusion.faces.texture import mirrored_points
from deid_diffusion.models.face_encoder import FaceEncoder


def test_weights_sum_to_one_and_lie_on_their_region() -> None:
    labels = draw_semantic_map(mean_mesh(128), 128)
    weights = region_weights(labels_tensor([labels]), 8)
    assert weights.shape == (1, len(FEATURE_NAMES), 64)
    assert torch.allclose(weights.sum(-1), torch.ones(1, len(FEATURE_NAMES)))
    rows = (weights.view(-1, 8, 8).sum(-1) * torch.arange(8)).sum(-1)
    by_name = dict(zip(FEATURE_NAMES, rows.tolist(), strict=True))
    assert by_name["brows"] < by_name["eyes"] < by_name["nose"] < by_name["mouth"]


def test_a_map_without_a_region_or_without_a_face_still_gives_weights() -> None:
    weights = region_weights(torch.zeros(1, 32, 32, dtype=torch.long), 4)
    assert torch.isfinite(weights).all()
    assert torch.allclose(weights.sum(-1), torch.ones(1, len(FEATURE_NAMES)))


def test_features_are_unit_vectors_one_a_region(tiny_pipeline) -> None:
    images = torch.rand(2, 3, 32, 32) * 2 - 1
    maps = labels_tensor([draw_semantic_map(mean_mesh(32), 32)] * 2)
    with torch.no_grad():
        features = encode_attributes(tiny_pipeline.image_encoder, images, maps)
    assert features.shape == (2, len(FEATURE_NAMES), 16)
    assert np.allclose(features.norm(dim=-1), 1, atol=1e-5)


def test_a_region_feature_reads_its_region(tiny_pipeline) -> None:
    images = torch.rand(1, 3, 32, 32) * 2 - 1
    maps = labels_tensor([draw_semantic_map(mean_mesh(32), 32)])
    moved = maps.roll(8, -1)
    with torch.no_grad():
        one, other = (encode_attributes(tiny_pipeline.image_encoder, images, m) for m in (maps, moved))
    assert torch.equal(one[:, 0], other[:, 0])  # the whole face does not depend on the map
    assert (one[:, 1:] - other[:, 1:]).abs().max() > 1e-4


def test_the_face_encoder_sees_the_face_and_not_where_it_is() -> None:
    torch.manual_seed(0)
    encoder = FaceEncoder(16, 8).eval()
    mesh = torch.from_numpy(mean_mesh(64).astype(np.float32))[None]
    image = torch.rand(1, 3, 64, 64) * 2 - 1
    labels = labels_tensor([draw_semantic_map(mean_mesh(64), 64)])
    with torch.no_grad():
        features = encode_attributes(encoder, image, labels, mesh)
        moved = encode_attributes(encoder, image.roll((5, 3), (-2, -1)), labels, mesh + torch.tensor([3.0, 5.0]))
    assert features.shape == (1, len(FEATURE_NAMES), 16)
    assert torch.allclose(features, moved, atol=1e-3)
    with pytest.raises(ValueError, match="give meshes"):
        encode_attributes(encoder, image, labels)


def test_a_face_and_its_mirror_image_are_read_alike() -> None:
    torch.manual_seed(0)
    encoder, points = FaceEncoder(16, 8).eval(), mean_mesh(64)
    points = (points + points[mirrored_points()] * (-1, 1) + (2 * points[:, 0].mean(), 0)) / 2  # symmetrical
    mesh, image = torch.from_numpy(points.astype(np.float32))[None], torch.rand(1, 3, 64, 64) * 2 - 1
    flipped = mesh[:, mirrored_points()] * torch.tensor([-1, 1]) + torch.tensor([64.0, 0.0])
    with torch.no_grad():
        features, mirrored = encoder(image, mesh, both_ways=True), encoder(image.flip(3), flipped, both_ways=True)
        plain, other = encoder(image, mesh), encoder(image.flip(3), flipped)
    assert (features - mirrored).abs().max() < 0.5 * (plain - other).abs().max()


def test_the_trunk_is_not_saved_with_the_encoder(tmp_path: Path) -> None:
    FaceEncoder(16, 8).save_pretrained(tmp_path)
    (file,) = tmp_path.glob("*.safetensors")
    assert file.stat().st_size < 100_000  # the trunk has 22 MB
