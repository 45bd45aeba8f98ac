import numpy as np
import pytest

from deid_diffusion.anonymizer import Anonymizer
from deid_diffusion.attributes.vocabulary import VOCABULARY
from deid_diffusion.errors import UsageError
from deid_diffusion.evaluation import inspection
from deid_diffusion.evaluation.inspection import AttributeReading, ReadFace, compare, draw_readings, read_faces, table
from deid_diffusion.faces.boxes import Detection
from deid_diffusion.faces.semantic_map import control_image
from deid_diffusion.options import Options
from tests.fake_anonymizer import analysis
from tests.fake_verifier import FAIL, FakeVerifier

FACE = Detection((170.0, 60.0, 270.0, 190.0), 0.9, "given")
OTHER = Detection((300.0, 300.0, 360.0, 380.0), 0.8, "given")
YOUNG = AttributeReading({"age": {"young": 0.75, "elderly": 0.25}})
OLD = AttributeReading({"age": {"young": 0.2, "elderly": 0.8}})


@pytest.fixture
def tiny(tiny_pipeline) -> Anonymizer:
    return Anonymizer(
        tiny_pipeline, detector=lambda image: [FACE, OTHER], landmarker=lambda crop: None, verifier=FakeVerifier()
    )


def test_scores_of_all_words(tiny: Anonymizer, astronaut: np.ndarray) -> None:
    faces = tiny.analyse(astronaut)
    readings = read_faces(tiny.pipeline, astronaut, faces, ["freckles"])
    assert len(readings) == 2
    words = {**VOCABULARY, "freckles": ("freckles",)}
    for reading in readings:
        assert {name: tuple(scores) for name, scores in reading.scores.items()} == words
        assert all(sum(scores.values()) == pytest.approx(1) for n, scores in reading.scores.items() if n != "freckles")
    assert read_faces(tiny.pipeline, astronaut, ()) == []
    pipeline = type(tiny.pipeline)(**{**tiny.pipeline.components, "image_encoder": None})
    with pytest.raises(UsageError, match="cannot read attributes"):
        read_faces(pipeline, astronaut, tiny.analyse(astronaut))


def test_compare(tiny: Anonymizer, astronaut: np.ndarray) -> None:
    readings = compare(tiny, astronaut, Options(seed=1, keep=("age", "freckles")))
    assert [face.action for face in readings] == ["replaced", "replaced"]
    assert all("freckles" in face.before.scores and face.after is not None for face in readings)
    assert not np.array_equal(*readings[0].crops)
    tiny.verifier = FakeVerifier(lambda n: FAIL)
    assert [face.after for face in compare(tiny, astronaut, Options(num_candidates=1))] == [None, None]


def test_table() -> None:
    assert table(YOUNG, OLD) == [
        "attribute     before                    after",
        "age           young 0.75                elderly 0.80",
    ]
    assert table(YOUNG, None)[1] == "age           young 0.75"


def test_draw_readings() -> None:
    crops = np.full((32, 32, 3), 200, np.uint8), np.full((32, 32, 3), 60, np.uint8)
    drawn = draw_readings([ReadFace("replaced", crops, YOUNG, OLD), ReadFace("covered", crops, OLD, None)])
    assert (drawn.dtype, drawn.shape) == (np.uint8, (2 * 256, 4 * 256, 3))
    assert (drawn[300:500, 800:1000] == 255).all()  # a covered face has no reading


PIXELS = np.full((80, 100, 3), 90, np.uint8)


def test_draw_maps():
    drawn = inspection.draw_maps(PIXELS, [analysis(PIXELS)])
    skin = control_image(np.array([[1]], np.uint8))[0, 0]
    coloured = np.argwhere((drawn == skin).all(axis=2))
    corners = [coloured.min(axis=0), coloured.max(axis=0)]
    assert np.abs(np.subtract(corners, [(28, 18), (43, 33)])).max() <= 1  # y, x
    assert (drawn[0] == 30).all()


def test_draw_masks():
    drawn = inspection.draw_masks(PIXELS, [analysis(PIXELS)])
    changed = (drawn != PIXELS).any(axis=2)
    np.testing.assert_array_equal(changed, analysis(PIXELS).mask.full() > 0)


def test_draw_faces():
    with_mesh = inspection.draw_faces(PIXELS, [analysis(PIXELS)])
    without = inspection.draw_faces(PIXELS, [analysis(PIXELS, mesh=False)])
    assert (with_mesh[52, 20] != 90).any()  # the box
    assert (with_mesh[36, 26] != 90).any()  # the mesh: crop (32, 32) is photo (26, 36)
    assert (without[30, 20] != 90).any()  # one of the five points
    assert (inspection.draw_faces(PIXELS, []) == PIXELS).all()


def test_panel_size():
    row = inspection.draw_inspection(PIXELS, [analysis(PIXELS)])
    assert row.dtype == np.uint8
    assert row.shape[0] >= 80
    assert 3 * 100 <= row.shape[1] <= 3 * 100 + 40
    large = inspection.side_by_side([("panel", np.zeros((50, 3_200, 3), np.uint8))])
    assert large.shape[1] == inspection.MAX_SIDE
    assert inspection.draw_inspection(PIXELS[:1, :1], []).shape[0] >= 1
