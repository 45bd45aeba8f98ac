from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from deid_diffusion.errors import DeidError, UsageError
from deid_diffusion.faces.landmarks import MESH_NOSE
from deid_diffusion.faces.texture import texture_mesh
from deid_diffusion.models.face_encoder import FaceEncoder
from deid_diffusion.training import identity_model as module

TEXELS = 64


@pytest.fixture(scope="module")
def portraits(astronaut: np.ndarray, tmp_path_factory: pytest.TempPathFactory) -> list:
    """The astronaut at ten brightnesses; a damaged file is left out."""
    folder = tmp_path_factory.mktemp("people")
    for k in range(10):
        Image.fromarray((astronaut[:300, 80:380] * (1 - 0.05 * k)).astype(np.uint8)).save(folder / f"{k}.png")
    (folder / "broken.png").write_text("no picture")
    rows = [f"{k}.png,{30 + k},0.1," for k in range(10)]
    (folder / "manifest.csv").write_text("\n".join(["file,age,male,text", *rows, "broken.png,30,0.5,"]))
    counts: list[int] = []
    reader = module.PortraitReader(TEXELS, FaceEncoder(16, 8))
    portraits = module.read_portraits(folder, reader, lambda done, total: counts.append(done))
    assert counts == list(range(1, 12))
    assert len(portraits) == 10
    return portraits


def test_texture_without_light(portraits: list) -> None:
    first, last = (portraits[k].texture.astype(np.float32) for k in (0, 5))
    assert np.abs(first - last).mean() < 0.12  # a quarter darker would be 0.29


def test_model_reconstructs_people(portraits: list) -> None:
    for portrait in portraits:
        portrait.faults.update({"hair": 0, "asymmetry": 0, "outliers": 0, "tint": 0, "contrast": 0.3, "lurid": 0})
    model, share = module.fit_identity_model(portraits, TEXELS, 6)
    assert len(model) == 10
    assert share > 0.8
    assert model.measures[3, 1] == 33
    texture = model.unpack((model.mean.float() + model.codes[0].float() @ model.modes.float()).numpy())
    assert np.abs(texture - model.project(portraits[0].texture.astype(np.float32))).mean() < 0.05


def test_too_few_clean_pictures(portraits: list) -> None:
    with pytest.raises(DeidError, match="2 of 2 pictures are clean frontal faces: expected 8 or more"):
        module.fit_identity_model(portraits[:2], TEXELS, 6)


def test_calm_skin() -> None:
    texture = np.zeros((128, 128, 3), np.float32)
    forehead, chin, brow = places = texture_mesh(128).round().astype(int)[[9, 200, 105]]
    for x, y in places:
        texture[y - 2 : y + 3, x - 2 : x + 3] = -1
    shaved, bearded = (module.calm_skin(texture, bearded=answer)[..., 0].T for answer in (False, True))
    assert shaved[tuple(forehead)] > -0.3
    assert shaved[tuple(brow)] == -1
    assert bearded[tuple(chin)] < shaved[tuple(chin)] - 0.1


def test_even_light() -> None:
    centre = np.array((texture_mesh(64)[list(MESH_NOSE), 1].mean() / 64, 0.5))
    rows, columns = np.mgrid[:64, :64] / 64.0 - centre[:, None, None]
    shade = 0.4 * np.tanh(12 * columns) * np.exp(-((rows / 0.15) ** 2))
    gleam = 0.8 * np.exp(-(columns**2 + rows**2) / 0.02**2)
    texture = np.repeat((shade + gleam)[..., None], 3, 2).astype(np.float32)
    even = module.even_light(texture)
    left, before = (np.abs(values - values[:, ::-1])[26:34, 28:36].max() for values in (even, texture))
    assert left < 0.1 * before
    assert even.max() < 0.5 * texture.max()
    assert not module.even_light(np.zeros((64, 64, 3), np.float32)).any()


def test_align_solids() -> None:
    rng = np.random.default_rng(0)
    base = np.column_stack([rng.random((478, 2)), rng.random(478) * 0.3])
    turn = np.array([(0.9, 0, 0.436), (0, 1, 0), (-0.436, 0, 0.9)])
    aligned = module.align_solids([base * 100, (base @ turn.T) * 70 + 5])
    assert np.abs(aligned[0] - aligned[1]).max() < 0.02


@pytest.mark.parametrize(
    ("text", "message"),
    [("", "lacks the column"), ("file,age\na.png,3\n", "lacks the column"), (None, "give a folder")],
)
def test_invalid_manifest(tmp_path: Path, text: str | None, message: str) -> None:
    if text is not None:
        (tmp_path / "manifest.csv").write_text(text)
    with pytest.raises(UsageError, match=message):
        module.read_manifest(tmp_path if text is not None else tmp_path / "none")
