import numpy as np
import pytest
import torch

from deid_diffusion.attributes.subspace import AttributeSubspace
from deid_diffusion.attributes.vocabulary import VOCABULARY
from deid_diffusion.faces.semantic_map import draw_semantic_map, mean_mesh
from deid_diffusion.models.attribute_adapter import AttributeAdapter
from deid_diffusion.training import captions as module

BLACK, MESH = np.zeros((64, 64, 3), np.uint8), mean_mesh(64)


def embed(texts: list[str]) -> torch.Tensor:
    """Embed texts as one-hot vectors, by a checksum of each."""
    return torch.eye(97)[[sum(text.encode()) * 7 % 97 for text in texts]]


def test_random_selection() -> None:
    torch.manual_seed(0)
    subspace, adapter = AttributeSubspace.from_phrases(VOCABULARY, embed), AttributeAdapter(97, 6, 4, 8)
    features = 20 * torch.nn.functional.normalize(torch.randn(200, 6, 97), dim=-1)  # long enough to survive rounding
    facts = module.fact_codes({"person": "man", "age": "young", "years": "about 30 years old"}).repeat(200, 1)
    selected = module.RandomSelection(subspace)(features, facts, adapter)
    spanned = subspace.project(selected, tuple(VOCABULARY), adapter.centre)
    assert torch.allclose(spanned, selected, atol=2e-3)  # nothing passes that the words do not span
    length = (selected - adapter.centre).norm(dim=-1)[:, 0]
    assert 0.02 < float((length < 1e-4).float().mean()) < 0.3  # faces that keep no attribute
    assert len(torch.unique(length.round(decimals=3))) > 20
    man = subspace.change(features, "gender", "man", adapter.centre, float(adapter.phrase_scale))
    basis = subspace.bases["gender"].T
    is_word = torch.isclose(selected[:, 0] @ basis, man[:, 0] @ basis, atol=1e-2).all(-1)
    assert 0.05 < float(is_word.float().mean()) < 0.35  # faces whose sex is encoded from its word


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        (
            {"predicted_age": "43", "predicted_male": "0.02", "text": "person wearing a hat; hat"},
            {
                "person": "woman", "age": "middle-aged", "years": "about 45 years old", "pose": "facing the camera",
                "text": "person wearing a hat", "picture": "colour photo",
            },
        ),
        (
            {"predicted_age": "21", "predicted_male": "0.9", "text": "a 2.5 year old toddler"},
            {"age": "toddler", "person": "boy"},
        ),
        (
            {"predicted_age": "21", "predicted_male": "0.1", "text": "asian small child"},
            {"age": "child", "person": "girl"},
        ),
    ],
    ids=["predictions", "age in text", "child in text"],
)  # fmt: skip
def test_describe_face(row: dict[str, str], expected: dict[str, str]) -> None:
    crop = np.full((64, 64, 3), (200, 160, 140), np.uint8)
    assert module.describe_face(row, crop, MESH).items() >= expected.items()


def test_unknown_facts() -> None:
    facts = module.describe_face({"grey": True}, BLACK, MESH)
    assert not facts.keys() & {"person", "age", "skin", "text"}
    assert module.write_caption(facts).startswith("black and white photo of a person, ")


@pytest.mark.parametrize(("colour", "word"), [((250, 225, 210), "very light"), ((60, 40, 30), "dark")])
def test_skin_tone(colour: tuple[int, int, int], word: str) -> None:
    assert module.skin_tone(np.full_like(BLACK, colour), draw_semantic_map(MESH, 64)) == word


def test_captions_of_facts() -> None:
    facts = {"person": "man", "age": "young", "pose": "looking left", "skin": "light skin", "picture": "colour photo"}
    rng = np.random.default_rng(0)
    assert module.write_caption(module.sample_facts(facts, rng, keep=0)) == "photo of a person"
    caption = module.write_caption(module.sample_facts(facts, rng, keep=1))
    assert caption.startswith("colour photo of a man, ")
    assert {"young", "looking left", "light skin"} <= set(caption.split(", "))
    assert "light skin" not in module.write_caption(module.without_colour(facts))


def test_matching_captions() -> None:
    faces = [{"person": "man", "age": "young"}, {"person": "man", "age": "elderly"}, {"person": "woman"}]
    captions = [{}, {"person": "man"}, {"person": "man", "age": "young"}, {"age": "young"}]
    codes, caption_codes = (torch.stack([module.fact_codes(facts) for facts in side]) for side in (faces, captions))
    matches = [[True, True, True, True], [True, True, False, False], [True, False, False, False]]
    assert module.matching_captions(codes, caption_codes).tolist() == matches


def faces(count: int, glasses: bool) -> list[np.ndarray]:
    """Return crops of grey noise, with or without two dark rings."""
    rows, columns = np.mgrid[:96, :96]
    eyes = mean_mesh(96)[[468, 473]]
    rings = [np.abs(np.hypot(columns - x, rows - y) - 10) < 1.5 for x, y in eyes] if glasses else []
    noise = [np.random.default_rng(seed + 100 * glasses).integers(120, 160, (96, 96, 3)) for seed in range(count)]
    return [np.where(np.any(rings, 0)[..., None] if rings else False, 20, crop).astype(np.uint8) for crop in noise]


def test_glasses_probability() -> None:
    strips = [module.eye_strip(crop, mean_mesh(96)) for crop in (*faces(24, True), *faces(24, False))]
    probability = module.glasses_probability(strips, np.arange(48) < 16)
    assert probability[16:24].min() > probability[24:].max()


def test_label_glasses() -> None:
    crops = [*faces(10, True), *faces(10, False)]
    rows = [{"file": f"{k}.jpg", "text": "man with glasses" if k < 8 else ""} for k in range(20)]
    labelled = module.label_glasses([*rows, rows[9]], [*crops, crops[0]], [mean_mesh(96)] * 21)
    assert labelled[20]["glasses_probability"] == labelled[9]["glasses_probability"]  # of one file
    assert module.glasses_word(labelled[0]) == "reading glasses"
    without_examples = module.label_glasses(rows[8:], crops[8:], [mean_mesh(96)] * 12)
    assert {module.glasses_word(row) for row in without_examples} == {None}


@pytest.mark.parametrize(
    ("text", "probability", "word"),
    [
        ("person wearing sunglasses", None, "sunglasses"),
        ("a woman with glasses", None, "reading glasses"),
        ("a woman", None, None),
        ("a woman", 0.5, None),
        ("a woman", 0.01, "no glasses"),
        ("a woman", 0.9, "reading glasses"),
    ],
)
def test_glasses_word(text: str, probability: float | None, word: str | None) -> None:
    row = {"text": text} if probability is None else {"text": text, "glasses_probability": probability}
    assert module.glasses_word(row) == word
    assert module.states_glasses(row) == ("glasses" in text)
