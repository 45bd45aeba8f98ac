"""HTTP service: requests and responses, errors, limits, concurrency."""

import base64
import io
import json
import tempfile
import threading
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import numpy as np
import pytest
from PIL import Image

from deid_diffusion.errors import DeidError, ImageError, UsageError
from deid_diffusion.io import images
from deid_diffusion.options import Options
from deid_diffusion.results import ImageRecord
from deid_diffusion.serving.http import anonymize_request, make_app
from deid_diffusion.serving.server import ApiKey, DeadlineExceeded, Limits
from tests.failures import raising
from tests.fake_anonymizer import COVERED, REPLACED, FakeAnonymizer, expected
from tests.serving.servers import KEY, PHOTO, Answer, ask, encoded, plain, serving

FORMAT = {"file_format": "png", "max_pixels": 1_000_000}


def no_check() -> None:
    pass


@pytest.fixture(scope="module")
def face(astronaut) -> bytes:
    """A real photo with one face."""
    return encoded(astronaut[:256, 96:352])


def test_check_ends_generation(anonymizer, face):
    checks = iter([None])

    def check() -> None:
        if next(checks, 0) is not None:
            raise DeadlineExceeded("time is up")

    options = Options(num_inference_steps=4, num_candidates=1)
    with pytest.raises(DeadlineExceeded):
        anonymize_request(anonymizer, face, "photo", options, check=check, **FORMAT)


def test_checks_before_the_result():
    fake = FakeAnonymizer(faces=())
    data = encoded(np.zeros((8, 8, 3), np.uint8))
    with pytest.raises(ImageError, match="over the limit of 10"):
        anonymize_request(fake, data, "photo", Options(), file_format="png", max_pixels=10, check=no_check)
    transparent = np.zeros((8, 8, 4), np.uint8)
    transparent[:4, :, 3] = 255
    fake = FakeAnonymizer()
    fake.detector = lambda pixels: [type("Face", (), {"box": (0.0, 0.0, 50.0, 50.0)})()]
    with pytest.raises(ImageError, match="transparency shows a face"):
        anonymize_request(fake, encoded(transparent), "photo", Options(), check=no_check, **FORMAT)


LIMITS = Limits(max_bytes=200_000, max_pixels=100_000, queue=3, seconds=20)


def post(port: int, body: object = None, query: str = "", **headers: str) -> Answer:
    return ask(port, "POST", f"/v1/anonymize{query}", encoded(PHOTO) if body is None else body, **headers)


@pytest.fixture
def fake() -> FakeAnonymizer:
    return FakeAnonymizer()


@pytest.fixture
def port(fake) -> Iterator[int]:
    with serving(make_app(fake, LIMITS)) as port:
        yield port


def refusal(answer: Answer) -> str:
    """Return the line of an error."""
    assert answer.headers["content-type"] == "application/json"
    assert list(answer.json) == ["error"]
    line = answer.json["error"]
    assert line
    assert "\n" not in line
    assert "Traceback" not in line
    return line


def test_image_response(port, fake):
    fake.faces = (REPLACED, COVERED, REPLACED)
    answer = post(port)
    assert (answer.status, answer.headers["content-type"]) == (200, "image/png")
    assert (answer.headers["deid-status"], answer.headers["deid-faces"]) == ("done", "replaced=2, covered=1")
    assert answer.headers["cache-control"] == "no-store"
    np.testing.assert_array_equal(answer.pixels, expected(PHOTO))
    assert fake.calls[0]["options"] == Options()


def test_json_response(port):
    answer = post(port, Accept="application/json")
    data = base64.b64decode(answer.json["image"])
    photo, result = images.decode(encoded(PHOTO), "x"), images.decode(data, "x")
    np.testing.assert_array_equal(result.pixels, expected(PHOTO))
    record = ImageRecord.from_json(json.dumps(answer.json["record"]))
    assert (record.input, record.output, record.status) == ("photo", "photo.png", "done")
    assert (record.input_sha256, record.output_sha256) == (photo.sha256, result.sha256)
    assert (record.width, record.height, record.model, record.gate) == (32, 24, "fake", "fake gate")
    assert record.faces == (REPLACED,)
    assert answer.json["media_type"] == "image/png"


def test_no_face(port, fake):
    fake.faces = ()
    answer = post(port)
    assert (answer.headers["deid-status"], answer.headers["deid-faces"]) == ("no_face", "none")
    strict = post(port, query="?require_face=true")
    assert strict.status == 422
    assert "photo: no face found" in refusal(strict)


@pytest.mark.parametrize(("name", "kind"), [("png", "PNG"), ("webp", "WEBP"), ("jpeg", "JPEG")])
def test_metadata(port, fake, name, kind):
    exif = Image.Exif()
    exif[0x010F] = "A camera"
    exif[0x0112] = 6  # rotated
    photo = encoded(PHOTO, "JPEG", exif=exif, comment=b"secret", quality=95)
    answer = post(port, photo, f"?format={name}")
    assert answer.headers["content-type"] == f"image/{name}"
    image = Image.open(io.BytesIO(answer.body))
    assert (image.format, image.size) == (kind, (24, 32))
    assert not image.getexif()
    assert images.AI_TERM.encode() in answer.body
    assert b"secret" not in answer.body
    assert b"A camera" not in answer.body
    fake.faces = ()
    assert images.AI_TERM.encode() not in post(port, photo, f"?format={name}").body


@pytest.mark.parametrize(
    "numbers",
    [
        "&num_candidates=2&num_inference_steps=3&map_blend=0.5",
        "&attempts=2&steps=3&map_privacy=0.5&method=synth",  # names of earlier releases
    ],
)
def test_parameters(port, fake, numbers):
    query = f"?keep=expression,age&keep=freckles&change=gender%3Dman&seed=5{numbers}"
    assert post(port, query=query).status == 200
    assert fake.calls[0]["options"] == Options(
        keep=("expression", "age", "freckles"),
        change={"gender": "man"},
        seed=5,
        num_candidates=2,
        num_inference_steps=3,
        map_blend=0.5,
    )
    assert post(port, query="?method=fill").status == 200
    assert fake.calls[1]["options"].method == "fill"


@pytest.mark.parametrize(
    ("query", "words"),
    [
        ("?seed=-1", "seed"),
        ("?seed=x", "seed"),
        ("?num_inference_steps=0", "num_inference_steps"),
        ("?steps=0", "num_inference_steps"),
        ("?steps=2&num_inference_steps=3", "steps"),
        ("?map_blend=nan", "map_blend"),
        ("?format=bmp", "format"),
        ("?method=swap", "method"),
        ("?min_face=100", "min_face"),
        ("?keep=expresion", "did you mean expression"),
        ("?keep=age&method=fill", "keeps and changes no attribute"),
        ("?change=age", "NAME=WORD"),
        ("?change=hair%3Dred", "unknown attribute"),
        ("?keep=%00%0a", "keep"),
    ],
)
def test_invalid_parameters(port, fake, query, words):
    answer = post(port, query=query)
    assert answer.status == 422
    assert words in refusal(answer)
    assert not fake.calls


def bomb(side: int) -> bytes:
    """Return a PNG of a few bytes whose header says side x side pixels."""
    small = encoded(np.zeros((1, 1, 3), np.uint8))
    header = side.to_bytes(4, "big") * 2 + b"\x08\x00\x00\x00\x00"
    rows = zlib.compress(bytes(side + 1))
    chunks = [(b"IHDR", header), (b"IDAT", rows), (b"IEND", b"")]
    return small[:8] + b"".join(
        len(data).to_bytes(4, "big") + name + data + zlib.crc32(name + data).to_bytes(4, "big") for name, data in chunks
    )


def test_invalid_uploads(port, fake):
    damaged = encoded(np.random.default_rng(1).integers(0, 256, (200, 200, 3), np.uint8))[:5000]
    for body, status, words in (
        (b"", 422, "is empty"),
        (b"this is a text", 422, "is not a"),
        (bomb(30_000), 422, "30000 x 30000 pixels are over the limit"),
        (damaged, 422, "truncated or damaged"),
        (bytes(200_001), 413, "over the limit of 200000 bytes"),
        (bytes(5_000_000), 413, "over the limit"),
    ):
        answer = post(port, body)
        assert answer.status == status
        assert words in refusal(answer)
    assert not fake.calls
    assert post(port).status == 200


def test_form_is_refused(port):
    answer = post(port, b"x", Content_Type="multipart/form-data; boundary=a")
    assert answer.status == 415
    assert "--data-binary" in refusal(answer)


def test_oversized_chunked_upload(port, fake):
    try:
        answer = post(port, (bytes(1 << 20) for _ in range(200)), Transfer_Encoding="chunked")
    except ConnectionError:
        pytest.fail("the answer was lost")
    assert answer.status == 413
    assert "over the limit" in refusal(answer)
    assert not fake.calls
    assert ask(port, "GET", "/health").status == 200


def test_transparency(port):
    transparent = encoded(np.dstack([PHOTO, np.full(PHOTO.shape[:2], 128, np.uint8)]))
    assert Image.open(io.BytesIO(post(port, transparent).body)).mode == "RGBA"
    assert "JPEG does not support transparency" in refusal(post(port, transparent, "?format=jpeg"))


@pytest.mark.parametrize(
    ("error", "status", "words"),
    [
        (UsageError("keep: age: this model reads no attributes"), 422, "reads no attributes"),
        (ValueError("/home/somebody/secret"), 500, "internal error: ValueError"),
        (DeidError("/home/somebody/people.sqlite: is locked"), 500, "internal error: DeidError"),
        (MemoryError(), 500, "internal error: MemoryError"),
    ],
)
def test_processing_errors(port, fake, error, status, words):
    fake.hook = raising(error)
    answer = post(port)
    assert answer.status == status
    assert words in refusal(answer)
    assert b"somebody" not in answer.body
    fake.hook = None
    assert post(port).status == 200


def test_other_addresses(port):
    for method, path, status in (("GET", "/", 404), ("GET", "/docs", 404), ("GET", "/v1/anonymize", 405)):
        answer = ask(port, method, path)
        assert answer.status == status
        assert refusal(answer)
    assert ask(port, "GET", "/health").json["status"] == "ok"


def test_api_key(fake):
    with serving(make_app(fake, LIMITS, api_key=ApiKey(KEY))) as port:
        for headers, words in (
            ({}, "needs an API key"),
            ({"Authorization": "Bearer wrong"}, "is wrong"),
            ({"Authorization": f"Bearer {KEY}x"}, "is wrong"),
            ({"Authorization": f"Basic {KEY}"}, "needs an API key"),
        ):
            answer = post(port, bytes(1_000_000), "?seed=x", **headers)
            assert (answer.status, answer.headers["www-authenticate"]) == (401, "Bearer")
            assert words in refusal(answer)
            assert ask(port, "GET", "/metrics", **headers).status == 401
        headers = {"Authorization": f"Bearer {KEY}"}
        assert post(port, **headers).status == 200
        assert ask(port, "GET", "/metrics", **headers).status == 200
        assert ask(port, "GET", "/health").status == 200


@contextmanager
def blocked(fake: FakeAnonymizer) -> Iterator[threading.Event]:
    """Block the worker inside the block; yield an event that is set when it has a photo."""
    started, resume = threading.Event(), threading.Event()

    def wait(image: np.ndarray) -> None:
        started.set()
        resume.wait(20)

    fake.hook = wait
    try:
        yield started
    finally:
        resume.set()
        fake.hook = None


def test_full_queue(port, fake):
    with ThreadPoolExecutor(LIMITS.queue) as callers:
        with blocked(fake) as started:
            requests = [callers.submit(post, port) for _ in range(LIMITS.queue)]
            started.wait(20)
            while b"deid_queue 3.0" not in ask(port, "GET", "/metrics").body:
                pass
            answer = post(port)
            assert (answer.status, answer.headers["retry-after"]) == (503, "5")
            assert "all 3 places are taken" in refusal(answer)
        assert [request.result().status for request in requests] == [200] * LIMITS.queue
    assert post(port).status == 200


def test_deadline(fake):
    with serving(make_app(fake, Limits(seconds=0.3))) as port:
        with blocked(fake), ThreadPoolExecutor(3) as callers:
            for answer in callers.map(post, [port] * 3):
                assert answer.status == 504
                assert "took longer than 0.3 seconds" in refusal(answer)
        assert post(port).status == 200
    assert len(fake.calls) == 2  # those that waited in vain were never started


def test_metrics(port, fake):
    fake.faces = (REPLACED, COVERED)
    post(port)
    post(port, b"x")
    lines = ask(port, "GET", "/metrics").body.decode().splitlines()
    assert {
        'deid_photos_total{status="done"} 1.0',
        'deid_faces_total{action="replaced"} 1.0',
        'deid_faces_total{action="covered"} 1.0',
        'deid_refused_total{code="422"} 1.0',
        "deid_photo_seconds_count 1.0",
        "deid_queue 0.0",
    } <= set(lines)


def test_callers_get_their_own_photos(fake):
    colours = [(k, 255 - k, (37 * k) % 256) for k in range(60)]
    with serving(make_app(fake, Limits(queue=60))) as port, ThreadPoolExecutor(60) as callers:
        answers = list(callers.map(lambda colour: post(port, encoded(plain(colour))), colours))
    for colour, reply in zip(colours, answers, strict=True):
        assert reply.status == 200
        np.testing.assert_array_equal(reply.pixels, expected(plain(colour)))


def test_nothing_is_written_to_disk(port, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "none"))  # temporary files would fail
    assert post(port, encoded(plain((1, 2, 3), (200, 300)))).status == 200
