"""A caller that watches the steps, and one that ends the call."""

import numpy as np
import pytest

from deid_diffusion.anonymizer import Anonymizer
from deid_diffusion.faces.detected_face import DetectedFace
from deid_diffusion.options import Options

from .fake_gate import FAIL, FakeGate

FACE = DetectedFace((170.0, 60.0, 270.0, 190.0), 0.9, "given")


class Stop(Exception):
    pass


@pytest.fixture
def tiny(tiny_pipeline) -> Anonymizer:
    return Anonymizer(tiny_pipeline, detector=lambda image: [FACE], landmarker=lambda crop: None, gate=FakeGate())


def test_each_step_of_each_run_is_told(tiny: Anonymizer, astronaut: np.ndarray) -> None:
    told: list[tuple[int, int]] = []
    tiny(astronaut, Options(seed=1, steps=5), on_step=lambda done, steps: told.append((done, steps)))
    assert told == [(1, 3), (2, 3), (3, 3)]
    told.clear()
    tiny.gate = FakeGate(lambda n: FAIL)
    tiny(astronaut, Options(seed=1, steps=4, attempts=3), on_step=lambda done, steps: told.append((done, steps)))
    assert told == [(1, 2), (2, 2)] * 3


def test_watching_changes_nothing(tiny: Anonymizer, astronaut: np.ndarray) -> None:
    unwatched = tiny(astronaut, Options(seed=1))
    watched = tiny(astronaut, Options(seed=1), on_step=lambda done, steps: None)
    assert np.array_equal(np.asarray(unwatched.image), np.asarray(watched.image))


def test_what_a_watcher_raises_ends_the_call(tiny: Anonymizer, astronaut: np.ndarray) -> None:
    """It does not merely cover a face, as a station's exception does."""

    def stop(done: int, steps: int) -> None:
        raise Stop("enough")

    with pytest.raises(Stop, match="enough"):
        tiny(astronaut, Options(seed=1), on_step=stop)
    assert tiny(astronaut, Options(seed=1)).faces[0].action == "replaced"
