"""What reaches a user's picture, when all goes well and when each station fails."""

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
from deid_diffusion.identity.keys import Key
from deid_diffusion.identity.known_people import ConsentList
from deid_diffusion.identity.pseudonyms import Pseudonyms
from deid_diffusion.identity.verification import FaceReference, VerificationResult
from deid_diffusion.io.annotations import FaceOverride
from deid_diffusion.options import Options
from tests.fake_verifier import FakeVerifier

FACE = Detection((170.0, 60.0, 270.0, 190.0), 0.9, "given")
OTHER = Detection((300.0, 300.0, 360.0, 380.0), 0.8, "given")
CORE = (slice(90, 170), slice(190, 250))  # inside FACE whatever the mask's exact shape


class Given:
    """A detector that knows the answer."""

    def __init__(self, *faces: Detection) -> None:
        self.faces = list(faces)

    def __call__(self, image: np.ndarray) -> list[Detection]:
        return self.faces


def no_mesh(crop: np.ndarray) -> None:
    return None


def failing(*args: object, **kwargs: object) -> None:
    raise RuntimeError("broken\non purpose")


@pytest.fixture
def tiny(tiny_pipeline) -> Anonymizer:
    return Anonymizer(tiny_pipeline, detector=Given(FACE, OTHER), landmarker=no_mesh, verifier=FakeVerifier())


def test_all_faces_replaced_rest_bit_identical(tiny: Anonymizer, astronaut: np.ndarray) -> None:
    result = tiny(astronaut, Options(seed=1))
    pixels = np.asarray(result.image)
    assert [face.action for face in result.faces] == ["replaced", "replaced"]
    outside = np.all([one.mask.full() == 0 for one in tiny.analyse(astronaut)], axis=0)
    assert np.array_equal(pixels[outside], astronaut[outside])
    assert (pixels[CORE] != astronaut[CORE]).any(-1).mean() > 0.9


def test_photo_without_faces_unchanged(tiny_pipeline, astronaut: np.ndarray) -> None:
    result = Anonymizer(tiny_pipeline, detector=Given(), landmarker=no_mesh, verifier=FakeVerifier())(astronaut)
    assert result.faces == ()
    assert np.array_equal(np.asarray(result.image), astronaut)


def test_seed_makes_results_repeatable(tiny: Anonymizer, astronaut: np.ndarray) -> None:
    one, again, fresh, other = (np.asarray(tiny(astronaut, Options(seed=s)).image) for s in (5, 5, None, None))
    assert np.array_equal(one, again)
    assert not np.array_equal(fresh, other)
    assert len({face.seed for face in tiny(astronaut).faces}) == 2


def test_batch_size_does_not_change_result(tiny: Anonymizer, astronaut: np.ndarray) -> None:
    together, alone = (np.asarray(tiny(astronaut, Options(seed=5, batch_size=n)).image).astype(int) for n in (8, 1))
    assert np.abs(together - alone).max() <= 2  # levels: float32's rounding, then that of sharpening, skin and rim


def test_generator_ignores_masked_pixels(
    tiny: Anonymizer, astronaut: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Attribute features and the skin's colour aside, which are not read here: they are meant to read the face."""
    monkeypatch.setattr(tiny.pipeline, "encode_attributes", lambda crops, maps: None)
    other = astronaut.copy()
    for one in tiny.analyse(astronaut):
        other[one.mask.full() > 0] = np.random.default_rng(0).integers(0, 256, 3)
    options = Options(seed=5, keep=("pose", "gaze", "expression"))
    results = [np.asarray(tiny(picture, options).image) for picture in (astronaut, other)]
    core = np.any([one.mask.full() == 1 for one in tiny.analyse(astronaut)], axis=0)
    assert np.array_equal(results[0][core], results[1][core])


@pytest.mark.parametrize("station", ["landmarker", "encode_attributes", "__call__", "nan", "flat"])
def test_failing_stage_covers_face(
    station: str, tiny: Anonymizer, astronaut: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    if station == "landmarker":
        tiny.landmarker = failing
    elif station in ("encode_attributes", "__call__"):
        monkeypatch.setattr(type(tiny.pipeline), station, failing)
    else:
        value = np.nan if station == "nan" else 0.5
        images = np.full((2, 32, 32, 3), value, np.float32)
        monkeypatch.setattr(type(tiny.pipeline), "__call__", lambda self, **given: (images, None))
    result = tiny(astronaut, Options(fill_colour="grey"))
    assert [face.action for face in result.faces] == ["covered", "covered"]
    assert all(face.reason and "\n" not in face.reason and face.seed is None for face in result.faces)
    assert (np.asarray(result.image)[CORE] == FILL).all()


def test_attributes_not_kept_have_no_influence(
    tiny: Anonymizer, astronaut: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The features are moved far within the un-kept attributes, as far as no kept word speaks of it."""
    pipeline, real = tiny.pipeline, type(tiny.pipeline).encode_attributes
    subspace, keep = pipeline.subspace(["scar"]), ("gender", "scar")
    kept = subspace._span(keep)
    others = torch.cat([basis for name, basis in subspace.bases.items() if name not in keep])
    hidden = others - others @ kept.T @ kept
    options = Options(seed=1, keep=keep)
    before = np.asarray(tiny(astronaut, options).image)
    for step in (hidden[0], hidden.sum(0), -3 * hidden[-1]):
        monkeypatch.setattr(type(pipeline), "encode_attributes", lambda self, *given, s=step: real(self, *given) + s)
        assert np.array_equal(np.asarray(tiny(astronaut, options).image), before)
    shift = subspace.bases["gender"][0]
    monkeypatch.setattr(type(pipeline), "encode_attributes", lambda self, *given: real(self, *given) + shift)
    assert not np.array_equal(np.asarray(tiny(astronaut, options).image), before)


def test_selections_reach_faces_and_records(tiny: Anonymizer, astronaut: np.ndarray) -> None:
    options = Options(seed=1, keep=("expression", "age"), change={"gender": "man"})
    plain = tiny(astronaut, options)
    assert plain.faces[1].kept_attributes == ("expression", "age")
    assert plain.faces[1].changed_attributes == {"gender": "man"}
    wished = tiny(astronaut, options, overrides=[FaceOverride(FACE, make_selection((), {"gender": "woman"}))])
    first, second = wished.faces
    assert (first.kept_attributes, first.changed_attributes) == ((), {"gender": "woman"})
    assert second == plain.faces[1]
    one, other = np.asarray(plain.image), np.asarray(wished.image)
    assert not np.array_equal(one[CORE], other[CORE])
    window = tiny.analyse(astronaut)[1].mask.window
    assert np.abs(one[window].astype(int) - other[window]).max() <= 1


def test_a_covered_face_has_kept_nothing(tiny: Anonymizer, astronaut: np.ndarray) -> None:
    tiny.landmarker = failing
    assert all(face.kept_attributes == () and not face.changed_attributes for face in tiny(astronaut).faces)


def test_words_change_the_result(tiny: Anonymizer, astronaut: np.ndarray) -> None:
    plain, *others = (
        np.asarray(tiny(astronaut, Options(seed=1, **wish)).image)
        for wish in ({}, {"prompt": "in the rain"}, {"keep": ("freckles",)}, {"change": {"age": "70"}})
    )
    assert not any(np.array_equal(plain, other) for other in others)


def test_meaningless_phrase_is_refused(
    tiny: Anonymizer, astronaut: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tiny.pipeline, "embed_phrases", lambda texts: torch.ones(len(texts), 16))
    with pytest.raises(UsageError, match="cannot distinguish these words"):
        tiny(astronaut, Options(keep=("a phrase",)))


def test_override_without_face_is_refused(tiny: Anonymizer, astronaut: np.ndarray) -> None:
    wish = FaceOverride(Detection((0.0, 0.0, 9.0, 9.0), 1.0, "boxes"), make_selection(()))
    with pytest.raises(UsageError, match="no face is at"):
        tiny(astronaut, overrides=[wish])


def test_failing_detector_raises(tiny: Anonymizer, astronaut: np.ndarray) -> None:
    tiny.detector = failing
    with pytest.raises(RuntimeError):
        tiny(astronaut)


@pytest.mark.parametrize("image", [np.zeros((9, 9), np.uint8), np.zeros((9, 9, 3)), "photo.jpg"])
def test_wrong_arrays_are_refused(tiny: Anonymizer, image: object) -> None:
    with pytest.raises(ValueError, match="image: expected"):
        tiny(image)


@pytest.mark.parametrize(("model", "device"), [("no/such/folder/anywhere", "cpu"), ("builtin", "warp")])
def test_missing_model_or_device(model: str, device: str) -> None:
    with pytest.raises(DeidError) as caught:
        Anonymizer.from_pretrained(model, device=device)
    assert "\n" not in str(caught.value)


def test_pickled_weights_are_refused(tiny_pipeline, tmp_path) -> None:
    tiny_pipeline.save_pretrained(tmp_path, safe_serialization=False)
    with pytest.raises(DeidError, match="safetensors"):
        Anonymizer.from_pretrained(str(tmp_path), device="cpu")


def test_builtin_replaces_astronaut(anonymizer: Anonymizer, astronaut: np.ndarray) -> None:
    result = anonymizer(Image.fromarray(astronaut), Options(seed=3))
    (face,) = result.faces
    assert (face.action, face.mesh) == ("replaced", True)
    pixels = np.asarray(result.image)
    assert np.abs(pixels[CORE].astype(int) - astronaut[CORE]).mean() > 8
    (found,) = anonymizer.detector(pixels)  # still a face, in the same place
    assert np.abs(np.subtract(found.box, face.box)).max() < 0.35 * (face.box[2] - face.box[0])


def test_builtin_border_and_tiny_faces(anonymizer: Anonymizer, astronaut: np.ndarray) -> None:
    cut = astronaut[:, 215:]  # half of the face is outside
    anonymizer_result = Anonymizer(
        anonymizer.pipeline, detector=Given(Detection((0.0, 60.0, 55.0, 190.0), 0.9, "given"))
    )
    assert anonymizer_result(cut, Options(seed=1)).faces[0].action == "replaced"
    tiny_face = Detection((200.0, 100.0, 210.0, 112.0), 0.9, "given")
    assert (
        Anonymizer(anonymizer.pipeline, detector=Given(tiny_face))(astronaut, Options(seed=1)).faces[0].action
        == "replaced"
    )


def test_record_hides_pseudonym_seed_and_nan(tiny_pipeline, astronaut: np.ndarray, tmp_path) -> None:
    """The seed follows from the key: with it anybody could give other photos that pseudonym's face."""
    embedding = np.array([1.0, 0.0], np.float32)
    people = Pseudonyms(Key(bytes(range(32))), tmp_path / "s", recogniser="fake", dimension=2, threshold=0.9)
    verifier = FakeVerifier(lambda n: VerificationResult(float("nan"), None), embedding)
    model = Anonymizer(tiny_pipeline, detector=Given(FACE), landmarker=no_mesh, verifier=verifier)
    (face,) = model(astronaut, Options(pseudonyms=people)).faces
    assert (face.action, face.seed, face.similarity) == ("replaced", None, None)
    assert face.pseudonym == people.people()[0][0]


@pytest.mark.parametrize(("faces", "action"), [(1, "kept"), (2, "replaced")])
def test_overlapping_faces_have_no_consent(
    tiny_pipeline, astronaut: np.ndarray, monkeypatch: pytest.MonkeyPatch, faces: int, action: str
) -> None:
    embedding = np.array([1.0, 0.0], np.float32)
    verifier = FakeVerifier()
    monkeypatch.setattr(verifier, "reference", lambda photo, face: FaceReference(embedding, None, None, faces))
    model = Anonymizer(tiny_pipeline, detector=Given(FACE), landmarker=no_mesh, verifier=verifier)
    result = model(astronaut, Options(keep_people=ConsentList(embedding[None], 0.95)))
    assert [face.action for face in result.faces] == [action]


@pytest.mark.parametrize(("wish", "smiles"), [({}, True), ({"keep": ("pose", "gaze")}, False), ({"keep": ()}, False)])
def test_builtin_keeps_smile_when_selected(
    anonymizer: Anonymizer, astronaut: np.ndarray, wish: dict[str, object], smiles: bool
) -> None:
    result = anonymizer(astronaut, Options(seed=2, **wish))
    assert result.faces[0].action == "replaced"
    found = measure(anonymizer.analyse(result.image)[0].map_mesh)
    assert (found.smile > 0.09) == smiles


def test_builtin_takes_new_phrase(anonymizer: Anonymizer, astronaut: np.ndarray) -> None:
    """The same weights, and no training."""
    plain, told = (anonymizer(astronaut, Options(seed=2, keep=words)) for words in (("age",), ("age", "a long scar")))
    assert told.faces[0].kept_attributes == ("age", "a long scar")
    assert not np.array_equal(np.asarray(plain.image), np.asarray(told.image))
