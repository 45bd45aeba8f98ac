"""Images through the anonymizer: results, records, refusals, and covers where a stage fails."""

import numpy as np
import pytest
import torch
from PIL import Image

from deid_diffusion.anonymizer import Anonymizer
from deid_diffusion.attributes.selection import make_selection
from deid_diffusion.errors import DeidError, UsageError
from deid_diffusion.faces.boxes import Detection
from deid_diffusion.faces.compositing import FILL
from deid_diffusion.faces.landmarks import measure
from deid_diffusion.identity.known_people import ConsentList
from deid_diffusion.identity.pseudonyms import Pseudonyms
from deid_diffusion.identity.verification import FaceReference, VerificationResult
from deid_diffusion.io.annotations import FaceOverride
from deid_diffusion.options import Options
from tests.failures import raising
from tests.fake_verifier import FakeVerifier
from tests.given_faces import CORE, FACE, given_anonymizer

failing = raising(RuntimeError("broken\non purpose"))


def pixels_of(anonymizer: Anonymizer, photo: np.ndarray, **options: object) -> np.ndarray:
    return np.asarray(anonymizer(photo, Options(**options)).image)


def test_all_faces_replaced_rest_bit_identical(tiny, astronaut):
    result = tiny(astronaut, Options(seed=1))
    pixels = np.asarray(result.image)
    assert [face.action for face in result.faces] == ["replaced", "replaced"]
    outside = np.all([analysis.mask.full() == 0 for analysis in tiny.analyse(astronaut)], axis=0)
    assert np.array_equal(pixels[outside], astronaut[outside])
    assert (pixels[CORE] != astronaut[CORE]).any(-1).mean() > 0.9


def test_photo_without_faces_unchanged(tiny_pipeline, astronaut):
    result = given_anonymizer(tiny_pipeline)(astronaut)
    assert result.faces == ()
    assert np.array_equal(np.asarray(result.image), astronaut)


def test_seed_makes_results_repeatable(tiny, astronaut):
    first, repeated, fresh, other = (pixels_of(tiny, astronaut, seed=seed) for seed in (5, 5, None, None))
    assert np.array_equal(first, repeated)
    assert not np.array_equal(fresh, other)
    assert len({face.seed for face in tiny(astronaut).faces}) == 2


def test_generator_ignores_masked_pixels(tiny, astronaut, monkeypatch):
    """Attribute features and the skin's colour, which are meant to depend on the face, are not read here."""
    monkeypatch.setattr(tiny.pipeline, "encode_attributes", lambda crops, maps: None)
    masks = [analysis.mask.full() for analysis in tiny.analyse(astronaut)]
    other = astronaut.copy()
    for mask in masks:
        other[mask > 0] = np.random.default_rng(0).integers(0, 256, 3)
    core = np.any([mask == 1 for mask in masks], axis=0)
    keep = ("pose", "gaze", "expression")
    first, second = (pixels_of(tiny, photo, seed=5, keep=keep)[core] for photo in (astronaut, other))
    assert np.array_equal(first, second)


@pytest.mark.parametrize("stage", ["landmarker", "encode_attributes", "__call__"])
def test_failing_stage_covers_face(stage, tiny, astronaut, monkeypatch):
    if stage == "landmarker":
        tiny.landmarker = failing
    else:
        monkeypatch.setattr(type(tiny.pipeline), stage, failing)
    result = tiny(astronaut, Options(fill_colour="grey"))
    for face in result.faces:
        assert (face.action, face.seed, face.kept_attributes, face.changed_attributes) == ("covered", None, (), {})
        assert face.reason
        assert "\n" not in face.reason
    assert len(result.faces) == 2
    assert (np.asarray(result.image)[CORE] == FILL).all()


def test_attributes_not_kept_have_no_influence(tiny, astronaut, monkeypatch):
    """The features are moved far within the attributes not kept, in directions of no kept word."""
    pipeline, encode = tiny.pipeline, type(tiny.pipeline).encode_attributes
    keep = ("gender", "scar")
    bases = pipeline.subspace(["scar"]).bases
    kept = torch.linalg.qr(torch.cat([bases[name] for name in keep]).T).Q
    others = torch.cat([basis for name, basis in bases.items() if name not in keep])
    hidden = others - others @ kept @ kept.T

    def moved(shift: torch.Tensor | float) -> np.ndarray:
        monkeypatch.setattr(type(pipeline), "encode_attributes", lambda self, *inputs: encode(self, *inputs) + shift)
        return pixels_of(tiny, astronaut, seed=1, keep=keep)

    unmoved = moved(0.0)
    for shift in (hidden[0], hidden.sum(0), -3 * hidden[-1]):
        assert np.array_equal(moved(shift), unmoved)
    assert not np.array_equal(moved(bases["gender"][0]), unmoved)


def test_selections_reach_faces_and_records(tiny, astronaut):
    options = Options(seed=1, keep=("expression", "age"), change={"gender": "man"})
    plain = tiny(astronaut, options)
    assert plain.faces[1].kept_attributes == ("expression", "age")
    assert plain.faces[1].changed_attributes == {"gender": "man"}
    overridden = tiny(astronaut, options, overrides=[FaceOverride(FACE, make_selection((), {"gender": "woman"}))])
    first, second = overridden.faces
    assert (first.kept_attributes, first.changed_attributes) == ((), {"gender": "woman"})
    assert second == plain.faces[1]
    before, after = np.asarray(plain.image), np.asarray(overridden.image)
    assert not np.array_equal(before[CORE], after[CORE])
    window = tiny.analyse(astronaut)[1].mask.window
    assert np.abs(before[window].astype(int) - after[window]).max() <= 1


def test_words_change_the_result(tiny, astronaut):
    plain, *others = (
        pixels_of(tiny, astronaut, seed=1, **words)
        for words in ({}, {"prompt": "in the rain"}, {"keep": ("freckles",)}, {"change": {"age": "70"}})
    )
    assert not any(np.array_equal(plain, other) for other in others)


def test_meaningless_phrase_is_refused(tiny, astronaut, monkeypatch):
    monkeypatch.setattr(tiny.pipeline, "embed_phrases", lambda texts: torch.ones(len(texts), 16))
    with pytest.raises(UsageError, match="cannot distinguish these words"):
        tiny(astronaut, Options(keep=("a phrase",)))


def test_override_without_face_is_refused(tiny, astronaut):
    override = FaceOverride(Detection((0.0, 0.0, 9.0, 9.0), 1.0, "boxes"), make_selection(()))
    with pytest.raises(UsageError, match="no face is at"):
        tiny(astronaut, overrides=[override])


def test_failing_detector_raises(tiny, astronaut):
    tiny.detector = failing
    with pytest.raises(RuntimeError):
        tiny(astronaut)


@pytest.mark.parametrize("image", [np.zeros((9, 9), np.uint8), np.zeros((9, 9, 3)), "photo.jpg"])
def test_invalid_image(tiny, image):
    with pytest.raises(ValueError, match="image: expected"):
        tiny(image)


@pytest.mark.parametrize(("model", "device"), [("no/such/folder/anywhere", "cpu"), ("builtin", "warp")])
def test_missing_model_or_device(model, device):
    with pytest.raises(DeidError) as caught:
        Anonymizer.from_pretrained(model, device=device)
    assert "\n" not in str(caught.value)


def test_pickled_weights_are_refused(tiny_pipeline, tmp_path):
    tiny_pipeline.save_pretrained(tmp_path, safe_serialization=False)
    with pytest.raises(DeidError, match="safetensors"):
        Anonymizer.from_pretrained(str(tmp_path), device="cpu")


def test_record_hides_pseudonym_seed_and_nan(tiny_pipeline, key, astronaut, tmp_path):
    """The seed follows from the key: with it anybody could give other photos that pseudonym's face."""
    embedding = np.array([1.0, 0.0], np.float32)
    people = Pseudonyms(key, tmp_path / "people", recogniser="fake", dimension=2, threshold=0.9)
    verifier = FakeVerifier(lambda n: VerificationResult(float("nan"), None), embedding)
    model = given_anonymizer(tiny_pipeline, FACE, verifier=verifier)
    (face,) = model(astronaut, Options(pseudonyms=people)).faces
    assert (face.action, face.seed, face.similarity) == ("replaced", None, None)
    assert face.pseudonym == people.people()[0][0]


@pytest.mark.parametrize(("faces", "action"), [(1, "kept"), (2, "replaced")])
def test_overlapping_faces_have_no_consent(tiny_pipeline, astronaut, monkeypatch, faces, action):
    embedding = np.array([1.0, 0.0], np.float32)
    model = given_anonymizer(tiny_pipeline, FACE)
    monkeypatch.setattr(model.verifier, "reference", lambda photo, face: FaceReference(embedding, None, None, faces))
    result = model(astronaut, Options(keep_people=ConsentList(embedding[None], 0.95)))
    assert [face.action for face in result.faces] == [action]


def test_builtin_replaces_astronaut(anonymizer, astronaut):
    result = anonymizer(Image.fromarray(astronaut), Options(seed=3))
    (face,) = result.faces
    assert (face.action, face.mesh) == ("replaced", True)
    pixels = np.asarray(result.image)
    assert np.abs(pixels[CORE].astype(int) - astronaut[CORE]).mean() > 8
    (detection,) = anonymizer.detector(pixels)  # still a face, in the same place
    assert np.abs(np.subtract(detection.box, face.box)).max() < 0.35 * (face.box[2] - face.box[0])


@pytest.mark.parametrize(
    ("left", "box"), [(215, (0.0, 60.0, 55.0, 190.0)), (0, (200.0, 100.0, 210.0, 112.0))], ids=["border", "tiny"]
)
def test_builtin_border_and_tiny_faces(anonymizer, astronaut, left, box):
    detector = lambda image: [Detection(box, 0.9, "given")]  # noqa: E731
    result = Anonymizer(anonymizer.pipeline, detector=detector)(astronaut[:, left:], Options(seed=1))
    assert result.faces[0].action == "replaced"


@pytest.mark.parametrize(("keep", "smiles"), [(None, True), (("pose", "gaze"), False), ((), False)])
def test_builtin_keeps_smile_when_selected(anonymizer, astronaut, keep, smiles):
    options = Options(seed=2) if keep is None else Options(seed=2, keep=keep)
    result = anonymizer(astronaut, options)
    assert result.faces[0].action == "replaced"
    assert (measure(anonymizer.analyse(result.image)[0].map_mesh).smile > 0.09) == smiles


def test_builtin_takes_new_phrase(anonymizer, astronaut):
    """The same weights, and no training."""
    plain, scarred = (
        anonymizer(astronaut, Options(seed=2, keep=words)) for words in (("age",), ("age", "a long scar"))
    )
    assert scarred.faces[0].kept_attributes == ("age", "a long scar")
    assert not np.array_equal(np.asarray(plain.image), np.asarray(scarred.image))
