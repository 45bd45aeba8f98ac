from pathlib import Path

import numpy as np
import pytest
import torch

from deid_diffusion.faces.landmarks import MESH_EYES
from deid_diffusion.faces.texture import texture_mesh
from deid_diffusion.models.identity_model import Donors, IdentityModel, region_weight
from tests.conftest import make_tiny_people

ALONE, OTHER, MIXED = Donors(0, 0, 0, 0, 0), Donors(1, 1, 1, 1, 1), Donors(0, 1, 0, 0, 0)


@pytest.fixture
def people() -> IdentityModel:
    return make_tiny_people()


def test_pack(people: IdentityModel) -> None:
    rows, columns = np.mgrid[:32, :32] / 32
    texture = np.stack([rows, 0.5 * columns, rows * columns], 2).astype(np.float32)
    again = people.unpack(people.pack(texture))
    inside = again.any(2)
    grey = np.array((0.299, 0.587, 0.114))
    assert np.abs((again - texture) @ grey)[inside].max() < 1e-5
    assert np.abs(again - texture)[inside].mean() < 0.05
    assert not again[~inside].any()


def test_move_leaves_no_copy(people: IdentityModel) -> None:
    """As when ComfyUI unloads a model: a copy of the modes in float32 would stay in memory."""
    people.texture(Donors(0, 1, 0, 0, 0))
    people.to("meta")
    assert all(value.is_meta for value in vars(people).values() if isinstance(value, torch.Tensor))


def test_regions(people: IdentityModel) -> None:
    alone, other, mixed = (people.texture(donors) for donors in (ALONE, OTHER, MIXED))
    weight = region_weight("eyes", 32)
    expected = alone + weight[..., None] * (other - alone)
    luma = (0.299, 0.587, 0.114)
    assert np.allclose(mixed @ luma, expected @ luma, atol=1e-4)
    assert np.abs(mixed - expected).mean() < 0.1 * np.abs(other - alone).mean()  # colours have half the texels
    assert weight.max() > 0.7
    assert weight[-4:].max() < 0.05
    alone, other, mixed = (people.shape(donors) for donors in (ALONE, OTHER, MIXED))
    eye, chin = 159, 152
    assert np.linalg.norm(mixed[eye] - other[eye]) < np.linalg.norm(mixed[eye] - alone[eye])
    assert np.allclose(mixed[chin], alone[chin], atol=1e-3)


def test_project(people: IdentityModel) -> None:
    values = people.mean.numpy() + 0.002 * people.modes[0].numpy()
    assert people.modes[:1].float().square().sum() > 0
    texture = people.unpack(values.astype(np.float32))
    again = people.project(texture)
    assert np.abs(people.pack(again) - people.pack(texture)).mean() < 0.3 * np.abs(people.pack(texture)).mean() + 0.05


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_save_and_load_dtypes(people: IdentityModel, tmp_path: Path, dtype: torch.dtype) -> None:
    people.save_pretrained(tmp_path)
    loaded = IdentityModel.from_pretrained(tmp_path, torch_dtype=dtype)
    assert loaded.modes.dtype == torch.int8
    assert torch.equal(loaded.modes, people.modes)
    donors = Donors(0, 1, 2, 3, 4)
    assert np.abs(loaded.texture(donors) - people.texture(donors)).max() < 1e-5
    assert torch.equal(loaded.to(torch.bfloat16).shapes, people.shapes)  # a face's points need more digits


def test_donors_bytes() -> None:
    donors = Donors(639, 1, 0, 77, 300, 145)
    assert len(donors.to_bytes()) == 12
    assert Donors.from_bytes(donors.to_bytes()) == donors
    assert Donors.from_bytes(donors.to_bytes()[:10]) == Donors(639, 1, 0, 77, 300)  # of an earlier store
    with pytest.raises(ValueError, match="got 5"):
        Donors.from_bytes(b"short")


def test_builtin_people(anonymizer) -> None:
    model = anonymizer.pipeline.identity_model
    male, age = model.measures[:, 0].float(), model.measures[:, 1].float()
    for low, high in ((0, 12), (12, 25), (25, 50), (50, 99)):
        sexes = male[(age >= low) & (age < high)] > 0.5
        assert min(int(sexes.sum()), int((~sexes).sum())) >= 10


def test_asymmetry(people: IdentityModel) -> None:
    rng = np.random.default_rng(0)
    asymmetric = rng.normal(size=(32, 32, 3)).astype(np.float32)
    for texture, low, high in ((asymmetric + asymmetric[:, ::-1], 0.0, 0.01), (asymmetric, 1.0, 2.0)):
        people.mean.copy_(torch.from_numpy(people.pack(texture)))
        people.codes.zero_()
        people._asymmetries = {}
        asymmetry = people.asymmetry("eyes")
        assert low <= asymmetry.min() <= asymmetry.max() <= high


def test_teeth_and_eye_whites(people: IdentityModel) -> None:
    texture = np.full((32, 32, 3), -0.3, np.float32)
    mesh = texture_mesh(32)
    (left, top), (right, bottom) = mesh[list(MESH_EYES[0])].min(0), mesh[list(MESH_EYES[0])].max(0)
    texture[int(top) : int(bottom) + 2, int(left) : int(right) + 2] = 0.2
    people.mean.copy_(torch.from_numpy(people.pack(texture)))
    people.codes.zero_()
    assert people.eye_whites == pytest.approx(0.2, abs=0.02)
    assert people.teeth == pytest.approx(-0.3, abs=0.02)


def test_eye_highlights(people: IdentityModel) -> None:
    people.codes.zero_()
    eye = texture_mesh(32)[list(MESH_EYES[0])]
    for stripe in (-0.3, 0.5):
        texture = np.full((32, 32, 3), -0.3, np.float32)
        texture[int(eye[:, 1].min()) - 2, int(eye[:, 0].min()) : int(eye[:, 0].max())] = stripe
        people.mean.copy_(torch.from_numpy(people.pack(texture)))
        vars(people).pop("eye_highlights", None)
        assert people.eye_highlights == pytest.approx(stripe, abs=0.15)
