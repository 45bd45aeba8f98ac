"""A real face through the service's line, with the embedded model: no disk, the same promises, an end on demand."""

import threading

import numpy as np
import pytest

from deid_diffusion import images
from deid_diffusion.errors import ImageError
from deid_diffusion.options import Options
from deid_diffusion.service.desk import OutOfTime
from deid_diffusion.service.photo import answer
from tests.fake_anonymizer import FakeAnonymizer

from .servers import ask, encoded, serving

FORMAT = {"file_format": "png", "max_pixels": 1_000_000}


def no_check() -> None:
    pass


@pytest.fixture(scope="module")
def photo() -> bytes:
    from skimage.data import astronaut

    return encoded(astronaut()[:256, 96:352])


def test_a_real_face(anonymizer, photo):
    checks = []
    options = Options(seed=1, steps=1, attempts=1)
    made = answer(anonymizer, photo, "photo", options, check=lambda: checks.append(1), **FORMAT)
    assert len(checks) >= 2  # before, and after each denoising step
    face = made.record.faces[0]
    assert face.action in ("replaced", "covered")
    x0, y0, x1, y1 = (round(one) for one in face.box)
    assert (made.before != made.after)[y0:y1, x0:x1].any(axis=2).mean() > 0.5
    np.testing.assert_array_equal(images.decode(made.data, "x").pixels, made.after)


def test_time_ends_real_work(anonymizer, photo):
    left = [1]

    def check() -> None:
        left[0] -= 1
        if left[0] < 0:
            raise OutOfTime("time is up")

    with pytest.raises(OutOfTime):
        answer(anonymizer, photo, "photo", Options(steps=4, attempts=1), check=check, **FORMAT)


def test_real_faces_of_several_callers_at_once(anonymizer, photo):
    pytest.importorskip("fastapi", reason="the service needs deid-diffusion[service]")
    from deid_diffusion.service.app import make_app
    from deid_diffusion.service.limits import Limits

    pixels = images.decode(photo, "x").pixels
    tints = [pixels // 4 + np.uint8(60 * k) for k in range(3)]
    answers = {}
    with serving(make_app(anonymizer, Limits())) as port:

        def call(k: int) -> None:
            answers[k] = ask(port, "POST", "/v1/anonymize?method=fill", encoded(tints[k]))

        callers = [threading.Thread(target=call, args=(k,)) for k in range(3)]
        for one in callers:
            one.start()
        for one in callers:
            one.join()
    for k, tint in enumerate(tints):
        assert answers[k].status == 200
        same = (answers[k].pixels == tint).all(axis=2)
        assert 0.3 < same.mean() < 1  # everything outside the face is this caller's, bit by bit
        assert same[-40:].all()


def test_no_result_without_the_checks():
    fake = FakeAnonymizer(faces=())
    data = encoded(np.zeros((8, 8, 3), np.uint8))
    with pytest.raises(ImageError, match="over the limit of 10"):
        answer(fake, data, "photo", Options(), file_format="png", max_pixels=10, check=no_check)
    with pytest.raises(ImageError, match="no face found"):
        answer(fake, data, "photo", Options(), check=no_check, require_face=True, **FORMAT)
    clear = np.zeros((8, 8, 4), np.uint8)
    clear[:4, :, 3] = 255
    seen = FakeAnonymizer()
    seen.detector = lambda pixels: [type("Face", (), {"box": (0.0, 0.0, 50.0, 50.0)})()]
    with pytest.raises(ImageError, match="transparency shows a face"):
        answer(seen, encoded(clear), "photo", Options(), check=no_check, **FORMAT)
