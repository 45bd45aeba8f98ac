from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline, StableDiffusionInpaintPipeline

from deid_diffusion.anonymizer import Anonymizer
from deid_diffusion.attributes import encoding
from deid_diffusion.attributes.subspace import FEATURE_NAMES, AttributeSubspace
from deid_diffusion.errors import UsageError
from deid_diffusion.faces.boxes import Detection
from deid_diffusion.faces.semantic_map import draw_semantic_map, mean_mesh
from deid_diffusion.faces.texture import mirrored_points
from deid_diffusion.models.face_encoder import FaceEncoder
from deid_diffusion.options import Options
from tests.conftest import make_tiny_pipeline
from tests.fake_verifier import FakeVerifier


@pytest.fixture
def face_encoder() -> FaceEncoder:
    torch.manual_seed(0)
    return FaceEncoder(16, 8).eval()


def test_embed_phrases(tiny_pipeline) -> None:
    ids = encoding.tokenize(tiny_pipeline.tokenizer, ["man"])
    with torch.no_grad():
        padded = torch.nn.functional.normalize(tiny_pipeline.text_encoder(input_ids=ids).pooler_output, dim=-1)
        assert torch.allclose(encoding.embed_ids(tiny_pipeline.text_encoder, ids), padded, atol=1e-5)
    vectors = encoding.embed_phrases(tiny_pipeline.text_encoder, tiny_pipeline.tokenizer, ["man", "woman"])
    assert vectors.shape == (2, 16)
    assert torch.allclose(vectors.norm(dim=1), torch.ones(2))
    assert not torch.equal(vectors[0], vectors[1])


def test_region_weights() -> None:
    labels = draw_semantic_map(mean_mesh(128), 128)
    weights = encoding.region_weights(encoding.labels_tensor([labels]), 8)
    assert weights.shape == (1, len(FEATURE_NAMES), 64)
    assert torch.allclose(weights.sum(-1), torch.ones(1, len(FEATURE_NAMES)))
    rows = (weights.view(-1, 8, 8).sum(-1) * torch.arange(8)).sum(-1)
    by_name = dict(zip(FEATURE_NAMES, rows.tolist(), strict=True))
    assert by_name["brows"] < by_name["eyes"] < by_name["nose"] < by_name["mouth"]
    empty = encoding.region_weights(torch.zeros(1, 32, 32, dtype=torch.long), 4)
    assert torch.allclose(empty.sum(-1), torch.ones(1, len(FEATURE_NAMES)))


def test_region_features_of_clip(tiny_pipeline) -> None:
    labels = encoding.labels_tensor([draw_semantic_map(mean_mesh(32), 32)])
    images = torch.rand(1, 3, 32, 32) * 2 - 1
    with torch.no_grad():
        features, shifted = (
            encoding.encode_attributes(tiny_pipeline.image_encoder, images, regions)
            for regions in (labels, labels.roll(8, -1))
        )
    assert features.shape == (1, len(FEATURE_NAMES), 16)
    assert np.allclose(features.norm(dim=-1), 1, atol=1e-5)
    assert torch.equal(features[:, 0], shifted[:, 0])  # the feature of the entire face does not
    assert (features[:, 1:] - shifted[:, 1:]).abs().max() > 1e-4


def test_face_encoder_ignores_position(face_encoder: FaceEncoder) -> None:
    mesh = torch.from_numpy(mean_mesh(64).astype(np.float32))[None]
    image = torch.rand(1, 3, 64, 64) * 2 - 1
    labels = encoding.labels_tensor([draw_semantic_map(mean_mesh(64), 64)])
    with torch.no_grad():
        features = encoding.encode_attributes(face_encoder, image, labels, mesh)
        moved = image.roll((5, 3), (-2, -1)), labels, mesh + torch.tensor([3.0, 5.0])
        shifted = encoding.encode_attributes(face_encoder, *moved)
    assert features.shape == (1, len(FEATURE_NAMES), 16)
    assert torch.allclose(features, shifted, atol=1e-3)
    with pytest.raises(ValueError, match="meshes: required"):
        encoding.encode_attributes(face_encoder, image, labels)


def test_both_ways(face_encoder: FaceEncoder) -> None:
    points = mean_mesh(64)
    points = (points + points[mirrored_points()] * (-1, 1) + (2 * points[:, 0].mean(), 0)) / 2  # symmetric
    mesh, image = torch.from_numpy(points.astype(np.float32))[None], torch.rand(1, 3, 64, 64) * 2 - 1
    mirrored = image.flip(3), mesh[:, mirrored_points()] * torch.tensor([-1, 1]) + torch.tensor([64.0, 0.0])
    with torch.no_grad():
        averaged, plain = (
            (face_encoder(image, mesh, both_ways=both) - face_encoder(*mirrored, both_ways=both)).abs().max()
            for both in (True, False)
        )
    assert averaged < 0.5 * plain


FACE = Detection((170.0, 60.0, 270.0, 190.0), 0.9, "given")
CORE = (slice(90, 170), slice(190, 250))
WORDS = {"gender": ("woman", "man"), "age": ("young", "elderly"), "freckles": ("freckles",)}


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory):
    """A pipeline with CLIP's image and text encoder, without an adapter."""
    folder = tmp_path_factory.mktemp("plain")
    pipeline, trained = make_tiny_pipeline(folder, with_adapter=False), make_tiny_pipeline(folder)
    pipeline.register_modules(image_encoder=trained.image_encoder, phrase_encoder=trained.phrase_encoder)
    return pipeline


def anonymizer(pipeline) -> Anonymizer:
    return Anonymizer(pipeline, detector=lambda image: [FACE], landmarker=lambda crop: None, verifier=FakeVerifier())


@pytest.fixture
def subspace() -> AttributeSubspace:
    return AttributeSubspace.from_phrases(WORDS, lambda texts: torch.eye(8)[[sum(t.encode()) % 8 for t in texts]])


def embed(captions: list[str]) -> tuple[torch.Tensor, int]:
    """Embed a caption as five tokens of its length, of which three count."""
    return torch.stack([torch.full((5, 4), float(len(caption))) for caption in captions]), 3


def test_zero_shot_tokens(subspace: AttributeSubspace) -> None:
    for k, word in enumerate(WORDS["gender"]):
        features = subspace.directions["gender"][k].expand(2, 6, -1)
        tokens, null_tokens = encoding.zero_shot_tokens(features, subspace, ["gender"], embed)
        assert tokens.shape == (2, 2, 4)  # without the start token
        assert torch.allclose(tokens, torch.full_like(tokens, len(f"photo of a {word}")), atol=1e-3)
        assert torch.allclose(null_tokens, torch.full((2, 4), len("photo of a ") + 4.0))


def test_zero_shot_removed_attribute(subspace: AttributeSubspace) -> None:
    features = subspace.project(torch.randn(2, 6, 8), ["freckles"], torch.zeros(6, 8))
    features = features - features @ subspace.bases["gender"].T @ subspace.bases["gender"]
    tokens, null_tokens = encoding.zero_shot_tokens(features, subspace, ["gender", "freckles"], embed)
    assert torch.allclose(tokens[:, :2], null_tokens[:2].expand(2, -1, -1), atol=1e-4)


def test_output_depends_on_features(plain) -> None:
    crops, maps = torch.rand(2, 3, 32, 32), [np.ones((32, 32), np.uint8)] * 2
    features = plain.encode_attributes(crops, maps)
    mask = torch.zeros(2, 1, 32, 32)
    mask[..., 8:24, 8:24] = 1

    def run(features: torch.Tensor | None, names: list[str] | None = None) -> np.ndarray:
        generators = [torch.Generator().manual_seed(k) for k in range(2)]
        inputs = {"image": crops, "mask_image": mask, "control_image": crops, "attribute_features": features}
        return plain(**inputs, attribute_names=names, generator=generators, output_type="np").images

    names = ["gender", "a scar"]
    output, without = run(features, names), run(None)
    assert np.array_equal(output, run(features, names))
    assert not np.array_equal(output, without)
    assert not np.array_equal(output, run(features.flip(0), names))
    assert np.array_equal(run(features, []), without)


def test_removed_attributes(plain, astronaut: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    model, encode = anonymizer(plain), type(plain).encode_attributes
    crops = {}
    for keep in ((), ("gender",)):
        for noise in (0.0, 0.3):
            noisy = lambda self, *inputs, noise=noise: encode(self, *inputs) + noise  # noqa: E731
            monkeypatch.setattr(type(plain), "encode_attributes", noisy)
            result = model(astronaut, Options(seed=1, keep=keep))
            assert [face.action for face in result.faces] == ["replaced"]
            crops[keep, noise] = np.asarray(result.image)[CORE]
    assert np.array_equal(crops[(), 0.0], crops[(), 0.3])
    assert not np.array_equal(crops[("gender",), 0.0], crops[(), 0.0])


def test_plain_checkpoint_with_clip(plain, tmp_path) -> None:
    parts = plain.components
    names = ("vae", "text_encoder", "tokenizer", "unet", "scheduler", "safety_checker", "feature_extractor")
    base = StableDiffusionInpaintPipeline(**{name: parts[name] for name in names}, requires_safety_checker=False)
    base.save_pretrained(tmp_path / "sd")
    clip = {name: parts[name] for name in ("controlnet", "image_encoder", "phrase_encoder")}
    code = {"custom_pipeline": str(Path(__file__).parents[2] / "pipelines" / "face_deid"), "trust_remote_code": True}
    loaded = DiffusionPipeline.from_pretrained(tmp_path / "sd", **code, **clip, attribute_adapter=None)
    loaded.save_pretrained(tmp_path / "model")
    reloaded = type(plain).from_pretrained(tmp_path / "model", trust_remote_code=True)
    for pipeline in (loaded, reloaded):
        assert pipeline.reads_attributes
        assert torch.allclose(pipeline.embed_phrases(["a man"]), plain.embed_phrases(["a man"]), atol=1e-5)


def test_without_attribute_encoder(tmp_path, astronaut: np.ndarray) -> None:
    model = anonymizer(make_tiny_pipeline(tmp_path, with_adapter=False))
    for name, options in (("age", Options(keep=("pose", "age"))), ("gender", Options(change={"gender": "man"}))):
        with pytest.raises(UsageError, match=f"{name}: this model has no attribute encoder"):
            model(astronaut, options)
    for options, kept in ((Options(keep=("pose",)), ("pose",)), (Options(), ("expression", "gaze", "pose", "light"))):
        (face,) = model(astronaut, options).faces
        assert face.kept_attributes == kept
