"""The Python of docs/service.md runs against a service."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis import checks

from deid_diffusion.io import images
from deid_diffusion.serving.access import ApiKey
from deid_diffusion.serving.http import make_app
from deid_diffusion.serving.queue import Limits
from tests.fake_anonymizer import FakeAnonymizer, expected
from tests.serving.servers import encoded, serving

pytest.importorskip("fastapi", reason="the service needs deid-diffusion[service]")


def test_the_page(tmp_path, monkeypatch, capsys):
    text = (Path(__file__).parents[2] / "docs" / "service.md").read_text()
    (code,) = re.findall(r"^```python\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    photo = np.full((24, 32, 3), 7, np.uint8)
    monkeypatch.chdir(tmp_path)
    Path("photo.jpg").write_bytes(encoded(photo))
    with serving(make_app(FakeAnonymizer(), Limits())) as port:
        exec(code.replace("127.0.0.1:8000", f"127.0.0.1:{port}"), {})
    np.testing.assert_array_equal(images.read("anonymous.png").pixels, expected(photo))
    assert "'action': 'replaced'" in capsys.readouterr().out


pytest.importorskip("fastapi", reason="the service needs deid-diffusion[service]")
pytest.importorskip("schemathesis", reason="pip install schemathesis")


KEY = "an-api-key-of-the-test"
PHOTO = encoded(np.random.default_rng(0).integers(0, 256, (24, 32, 3), dtype=np.uint8))
CHECKS = (
    checks.not_a_server_error,
    checks.status_code_conformance,
    checks.content_type_conformance,
    checks.response_headers_conformance,
    checks.response_schema_conformance,
)


@pytest.fixture(scope="module")
def described():
    with serving(make_app(FakeAnonymizer(), Limits(max_bytes=100_000), api_key=ApiKey(KEY))) as port:
        yield schemathesis.openapi.from_url(f"http://127.0.0.1:{port}/openapi.json")


def fuzz(operation, body=None, expected=None) -> None:
    """Make up requests for an operation, and look at every answer."""

    @settings(max_examples=40, deadline=None, database=None, derandomize=True, suppress_health_check=list(HealthCheck))
    @given(case=operation.as_strategy())
    def each(case) -> None:
        if body is not None:
            case.body = body
        answer = case.call_and_validate(checks=CHECKS, headers={"Authorization": f"Bearer {KEY}"})
        seen.add(answer.status_code)

    seen: set[int] = set()
    each()
    assert seen <= expected


def test_any_request(described):
    operations = [found.ok() for found in described.get_all_operations()]
    assert [one.path for one in operations] == ["/v1/anonymize", "/health", "/metrics"]
    for one in operations:
        fuzz(one, expected={200, 422} if one.method == "post" else {200})


def test_any_wish_for_a_photo(described):
    fuzz(described["/v1/anonymize"]["POST"], PHOTO, {200, 422})
