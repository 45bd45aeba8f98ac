"""The service against requests made up from its own OpenAPI description: no server error, no undescribed answer."""

import numpy as np
import pytest

pytest.importorskip("fastapi", reason="the service needs deid-diffusion[service]")
pytest.importorskip("schemathesis", reason="pip install schemathesis")

import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis import checks

from deid_diffusion.service.access import ApiKey
from deid_diffusion.service.app import make_app
from deid_diffusion.service.limits import Limits
from tests.fake_anonymizer import FakeAnonymizer

from .servers import encoded, serving

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
