"""The service against its OpenAPI schema, and the example of docs/service.md against the service."""

import re
from pathlib import Path

import numpy as np
import pytest

from deid_diffusion.io import images
from deid_diffusion.serving.http import make_app
from deid_diffusion.serving.server import ApiKey, Limits
from tests.fake_anonymizer import FakeAnonymizer, expected
from tests.serving.servers import KEY, PHOTO, encoded, serving


def test_documented_client(tmp_path, monkeypatch, capsys):
    text = (Path(__file__).parents[2] / "docs" / "service.md").read_text()
    (code,) = re.findall(r"^```python\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    monkeypatch.chdir(tmp_path)
    Path("photo.jpg").write_bytes(encoded(PHOTO))
    with serving(make_app(FakeAnonymizer(), Limits())) as port:
        exec(code.replace("127.0.0.1:8000", f"127.0.0.1:{port}"), {})
    np.testing.assert_array_equal(images.read("anonymous.png").pixels, expected(PHOTO))
    assert "'action': 'replaced'" in capsys.readouterr().out


@pytest.fixture(scope="module")
def schema():
    import schemathesis

    with serving(make_app(FakeAnonymizer(), Limits(max_bytes=100_000), api_key=ApiKey(KEY))) as port:
        yield schemathesis.openapi.from_url(f"http://127.0.0.1:{port}/openapi.json")


def fuzz(operation, body: bytes | None = None) -> None:
    """Send random requests, and check every response against the schema."""
    from hypothesis import HealthCheck, given, settings
    from schemathesis import checks

    rules = (
        checks.not_a_server_error,
        checks.status_code_conformance,
        checks.content_type_conformance,
        checks.response_headers_conformance,
        checks.response_schema_conformance,
    )
    posts = operation.method == "post"

    @settings(
        max_examples=40 if posts else 5,  # the others have no parameters
        deadline=None, database=None, derandomize=True, suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(case=operation.as_strategy())
    def send(case) -> None:
        if body is not None:
            case.body = body
        response = case.call_and_validate(checks=rules, headers={"Authorization": f"Bearer {KEY}"})
        assert response.status_code in ({200, 422} if posts else {200})

    send()


def test_operations(schema):
    operations = [result.ok() for result in schema.get_all_operations()]
    assert [operation.path for operation in operations] == ["/v1/anonymize", "/health", "/metrics"]
    for operation in operations:
        fuzz(operation)


def test_parameters_with_a_photo(schema):
    fuzz(schema["/v1/anonymize"]["POST"], encoded(PHOTO))
