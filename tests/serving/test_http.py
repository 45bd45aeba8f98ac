"""A real face through the service's line, with the embedded model: no disk, the same promises, an end on demand."""

from __future__ import annotations

import base64
import io
import json
import threading
import zlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image

from deid_diffusion.errors import DeidError, ImageError, UsageError
from deid_diffusion.io import images
from deid_diffusion.options import Options
from deid_diffusion.results import ImageRecord
from deid_diffusion.serving.access import ApiKey
from deid_diffusion.serving.http import anonymize_request, make_app
from deid_diffusion.serving.queue import DeadlineExceeded, Limits
from tests.fake_anonymizer import COVERED, REPLACED, FakeAnonymizer, expected
from tests.serving.servers import Answer, ask, encoded, plain, serving

FORMAT = {"file_format": "png", "max_pixels": 1_000_000}


def no_check() -> None:
    pass


@pytest.fixture(scope="module")
def photo() -> bytes:
    from skimage.data import astronaut

    return encoded(astronaut()[:256, 96:352])


def test_a_real_face(anonymizer, photo):
    checks = []
    options = Options(seed=1, num_inference_steps=1, num_candidates=1)
    encoded_result, record = anonymize_request(
        anonymizer, photo, "photo", options, check=lambda: checks.append(1), **FORMAT
    )
    assert len(checks) >= 2  # before, and after each denoising step
    face = record.faces[0]
    assert face.action in ("replaced", "covered")
    x0, y0, x1, y1 = (round(one) for one in face.box)
    assert (images.decode(photo, "x").pixels != images.decode(encoded_result, "x").pixels)[y0:y1, x0:x1].any(
        axis=2
    ).mean() > 0.5


def test_time_ends_real_work(anonymizer, photo):
    left = [1]

    def check() -> None:
        left[0] -= 1
        if left[0] < 0:
            raise DeadlineExceeded("time is up")

    with pytest.raises(DeadlineExceeded):
        anonymize_request(
            anonymizer, photo, "photo", Options(num_inference_steps=4, num_candidates=1), check=check, **FORMAT
        )


def test_real_faces_of_several_callers_at_once(anonymizer, photo):
    pytest.importorskip("fastapi", reason="the service needs deid-diffusion[service]")
    from deid_diffusion.serving.http import make_app
    from deid_diffusion.serving.queue import Limits

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
        anonymize_request(fake, data, "photo", Options(), file_format="png", max_pixels=10, check=no_check)
    with pytest.raises(ImageError, match="no face found"):
        anonymize_request(fake, data, "photo", Options(), check=no_check, require_face=True, **FORMAT)
    clear = np.zeros((8, 8, 4), np.uint8)
    clear[:4, :, 3] = 255
    seen = FakeAnonymizer()
    seen.detector = lambda pixels: [type("Face", (), {"box": (0.0, 0.0, 50.0, 50.0)})()]
    with pytest.raises(ImageError, match="transparency shows a face"):
        anonymize_request(seen, encoded(clear), "photo", Options(), check=no_check, **FORMAT)


pytest.importorskip("fastapi", reason="the service needs deid-diffusion[service]")
pytest.importorskip("uvicorn", reason="the service needs deid-diffusion[service]")


PHOTO = np.random.default_rng(0).integers(0, 256, (24, 32, 3), dtype=np.uint8)
KEY = "an-api-key-of-the-test"
LIMITS = Limits(max_bytes=200_000, max_pixels=100_000, queue=3, seconds=20)


@pytest.fixture
def fake() -> FakeAnonymizer:
    return FakeAnonymizer()


@pytest.fixture
def port(fake):
    with serving(make_app(fake, LIMITS)) as port:
        yield port


@pytest.fixture
def post(port):
    def send(body=None, query: str = "", **headers: str) -> Answer:
        return ask(port, "POST", f"/v1/anonymize{query}", encoded(PHOTO) if body is None else body, **headers)

    return send


def refusal(answer: Answer) -> str:
    """The one line of an error."""
    assert answer.headers["content-type"] == "application/json"
    assert list(answer.json) == ["error"]
    line = answer.json["error"]
    assert line
    assert "\n" not in line
    assert "Traceback" not in line
    return line


def test_a_photo(post, fake):
    fake.faces = (REPLACED, COVERED, REPLACED)
    answer = post()
    assert (answer.status, answer.headers["content-type"]) == (200, "image/png")
    assert (answer.headers["deid-status"], answer.headers["deid-faces"]) == ("done", "replaced=2, covered=1")
    assert answer.headers["cache-control"] == "no-store"
    np.testing.assert_array_equal(answer.pixels, expected(PHOTO))
    assert fake.calls[0]["options"] == Options()


def test_the_record(post):
    answer = post(Accept="application/json")
    made = base64.b64decode(answer.json["image"])
    np.testing.assert_array_equal(images.decode(made, "x").pixels, expected(PHOTO))
    record = ImageRecord.from_json(json.dumps(answer.json["record"]))
    photo, result = images.decode(encoded(PHOTO), "x"), images.decode(made, "x")
    assert (record.input, record.output, record.status) == ("photo", "photo.png", "done")
    assert (record.input_sha256, record.output_sha256) == (photo.sha256, result.sha256)
    assert (record.width, record.height, record.model, record.gate) == (32, 24, "fake", "fake gate")
    assert record.faces == (REPLACED,)
    assert answer.json["media_type"] == "image/png"


def test_no_face(post, fake):
    fake.faces = ()
    answer = post()
    assert (answer.headers["deid-status"], answer.headers["deid-faces"]) == ("no_face", "none")
    strict = post(query="?require_face=true")
    assert strict.status == 422
    assert "photo: no face found" in refusal(strict)


def test_metadata_and_marks_are_those_of_the_command_line(post, fake):
    exif = Image.Exif()
    exif[0x010F] = "A camera"
    exif[0x0112] = 6  # lies on its side
    sent = encoded(PHOTO, "JPEG", exif=exif, comment=b"secret", quality=95)
    for name, kind in (("png", "PNG"), ("webp", "WEBP"), ("jpeg", "JPEG")):
        answer = post(sent, f"?format={name}")
        assert answer.headers["content-type"] == f"image/{name}"
        made = Image.open(io.BytesIO(answer.body))
        assert (made.format, made.size) == (kind, (24, 32))
        assert not made.getexif()
        assert images.AI_TERM.encode() in answer.body
        assert b"secret" not in answer.body
        assert b"A camera" not in answer.body
    fake.faces = ()
    assert images.AI_TERM.encode() not in post(sent).body


@pytest.mark.parametrize(
    "numbers",
    [
        "&num_candidates=2&num_inference_steps=3&map_blend=0.5",
        "&attempts=2&steps=3&map_privacy=0.5&method=synth",  # names of earlier releases
    ],
)
def test_wishes(post, fake, numbers):
    assert post(query=f"?keep=expression,age&keep=freckles&change=gender%3Dman&seed=5{numbers}").status == 200
    wished = Options(
        keep=("expression", "age", "freckles"),
        change={"gender": "man"},
        seed=5,
        num_candidates=2,
        num_inference_steps=3,
        map_blend=0.5,
    )
    assert fake.calls[0]["options"] == wished
    assert post(query="?method=fill").status == 200
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
def test_wishes_that_cannot_be_met(post, fake, query, words):
    answer = post(query=query)
    assert answer.status == 422
    assert words in refusal(answer)
    assert not fake.calls


def bomb(side: int) -> bytes:
    """A PNG of side x side grey pixels in a few bytes."""
    small = encoded(np.zeros((1, 1, 3), np.uint8))
    header = side.to_bytes(4, "big") * 2 + b"\x08\x00\x00\x00\x00"
    rows = zlib.compress(bytes(side + 1)) * 1
    chunks = [(b"IHDR", header), (b"IDAT", rows), (b"IEND", b"")]
    return small[:8] + b"".join(
        len(data).to_bytes(4, "big") + name + data + zlib.crc32(name + data).to_bytes(4, "big") for name, data in chunks
    )


def test_bad_uploads(post, fake):
    cut = encoded(np.random.default_rng(1).integers(0, 256, (200, 200, 3), np.uint8))[:5000]
    for body, status, words in (
        (b"", 422, "is empty"),
        (b"this is a text, no photo", 422, "is not a photo"),
        (bomb(30_000), 422, "30000 x 30000 pixels are over the limit"),
        (cut, 422, "truncated or damaged"),
        (bytes(200_001), 413, "over the limit of 200000 bytes"),
        (bytes(5_000_000), 413, "over the limit"),
    ):
        answer = post(body)
        assert answer.status == status
        assert words in refusal(answer)
    answer = post(b"x", Content_Type="multipart/form-data; boundary=a")
    assert answer.status == 415
    assert "--data-binary" in refusal(answer)
    assert not fake.calls
    assert post().status == 200  # it lives


def test_200_megabytes_in_pieces(port, fake):
    piece, sent = bytes(1 << 20), []

    def pieces():
        for _ in range(200):
            sent.append(1)
            yield piece

    try:
        answer = ask(port, "POST", "/v1/anonymize", pieces(), Transfer_Encoding="chunked")
    except ConnectionError:
        pytest.fail("the answer was lost")
    assert answer.status == 413
    assert "over the limit" in refusal(answer)
    assert not fake.calls
    assert ask(port, "GET", "/health").status == 200


def test_transparency(post, fake):
    clear = np.dstack([PHOTO, np.full(PHOTO.shape[:2], 128, np.uint8)])
    answer = post(encoded(clear))
    assert Image.open(io.BytesIO(answer.body)).mode == "RGBA"
    assert "JPEG does not support transparency" in refusal(post(encoded(clear), "?format=jpeg"))


@pytest.mark.parametrize(
    ("error", "status", "words"),
    [
        (UsageError("keep: age: this model reads no attributes"), 422, "reads no attributes"),
        (ValueError("/home/somebody/secret"), 500, "internal error: ValueError"),
        (DeidError("/home/somebody/people.sqlite: is locked"), 500, "internal error: DeidError"),
        (MemoryError(), 500, "internal error: MemoryError"),
    ],
)
def test_errors_at_work(post, fake, error, status, words):
    def fail(image):
        raise error

    fake.hook = fail
    answer = post()
    assert answer.status == status
    assert words in refusal(answer)
    assert b"somebody" not in answer.body
    fake.hook = None
    assert post().status == 200


def test_other_addresses_and_methods(port):
    for method, path, status in (("GET", "/", 404), ("GET", "/docs", 404), ("GET", "/v1/anonymize", 405)):
        answer = ask(port, method, path)
        assert answer.status == status
        assert refusal(answer)
    assert ask(port, "GET", "/health").json["status"] == "ok"


def test_the_api_key(fake):
    with serving(make_app(fake, LIMITS, api_key=ApiKey(KEY))) as port:
        for headers, words in (
            ({}, "needs an API key"),
            ({"Authorization": "Bearer wrong"}, "is wrong"),
            ({"Authorization": f"Bearer {KEY}x"}, "is wrong"),
            ({"Authorization": f"Basic {KEY}"}, "needs an API key"),
        ):
            answer = ask(port, "POST", "/v1/anonymize?seed=x", bytes(1_000_000), **headers)
            assert (answer.status, answer.headers["www-authenticate"]) == (401, "Bearer")
            assert words in refusal(answer)
            assert ask(port, "GET", "/metrics", **headers).status == 401
        good = {"Authorization": f"Bearer {KEY}"}
        assert ask(port, "POST", "/v1/anonymize", encoded(PHOTO), **good).status == 200
        assert ask(port, "GET", "/metrics", **good).status == 200
        assert ask(port, "GET", "/health").status == 200
    assert KEY not in repr(ApiKey(KEY))


def test_a_full_queue_turns_away(port, fake):
    begun, go_on = threading.Event(), threading.Event()

    def wait(image):
        begun.set()
        go_on.wait(20)

    fake.hook = wait
    with ThreadPoolExecutor(LIMITS.queue) as callers:
        taken = [callers.submit(ask, port, "POST", "/v1/anonymize", encoded(PHOTO)) for _ in range(LIMITS.queue)]
        begun.wait(20)
        while b"deid_queue 3.0" not in ask(port, "GET", "/metrics").body:
            pass
        answer = ask(port, "POST", "/v1/anonymize", encoded(PHOTO))
        assert (answer.status, answer.headers["retry-after"]) == (503, "5")
        assert "all 3 places are taken" in refusal(answer)
        go_on.set()
        assert [one.result().status for one in taken] == [200] * LIMITS.queue
    assert ask(port, "POST", "/v1/anonymize", encoded(PHOTO)).status == 200


def test_time_is_up(fake):
    go_on = threading.Event()
    fake.hook = lambda image: go_on.wait(20)
    with serving(make_app(fake, Limits(seconds=0.3))) as port:
        with ThreadPoolExecutor(3) as callers:
            taken = [callers.submit(ask, port, "POST", "/v1/anonymize", encoded(PHOTO)) for _ in range(3)]
            for one in taken:
                assert one.result().status == 504
                assert "took longer than 0.3 seconds" in refusal(one.result())
        go_on.set()
        fake.hook = None
        assert ask(port, "POST", "/v1/anonymize", encoded(PHOTO)).status == 200
    assert len(fake.calls) == 2  # those who waited in vain were never begun


def test_metrics(post, port, fake):
    fake.faces = (REPLACED, COVERED)
    post()
    post(b"x")
    text = ask(port, "GET", "/metrics").body.decode()
    for line in (
        'deid_photos_total{status="done"} 1.0',
        'deid_faces_total{action="replaced"} 1.0',
        'deid_faces_total{action="covered"} 1.0',
        'deid_refused_total{code="422"} 1.0',
        "deid_photo_seconds_count 1.0",
        "deid_queue 0.0",
    ):
        assert line in text.splitlines()


def test_200_callers_get_their_own_pictures(fake):
    """Each caller's photo has one colour of its own; what comes back must be of that colour alone."""
    colours = [(k, 255 - k, (37 * k) % 256) for k in range(200)]
    with serving(make_app(fake, Limits(queue=200))) as port, ThreadPoolExecutor(200) as callers:
        answers = list(callers.map(lambda colour: ask(port, "POST", "/v1/anonymize", encoded(plain(colour))), colours))
    for colour, reply in zip(colours, answers, strict=True):
        assert reply.status == 200
        np.testing.assert_array_equal(reply.pixels, expected(plain(colour)))


def test_nothing_is_written_to_disk(post, tmp_path, monkeypatch):
    import tempfile

    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "none"))  # whoever wants a file there fails
    assert post(encoded(plain((1, 2, 3), (200, 300)))).status == 200
