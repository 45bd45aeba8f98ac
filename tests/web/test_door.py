"""What every request to the page passes: password, sizes, closed addresses, and a policy for the browser."""

import base64

import pytest

pytest.importorskip("uvicorn", reason="the page needs deid-diffusion[web]")
pytest.importorskip("starlette", reason="the page needs deid-diffusion[web]")

from starlette.requests import Request
from starlette.responses import PlainTextResponse

from deid_diffusion.service.access import ApiKey
from deid_diffusion.web.door import Door
from tests.service.servers import ask, serving

KEY = "an-api-key-of-the-test"


async def inside(scope, receive, send):
    """Answers with the number of bytes that came in."""
    if scope["type"] == "http":
        body = await Request(scope, receive).body()
        await PlainTextResponse(f"{len(body)}")(scope, receive, send)


def basic(text: str) -> str:
    return f"Basic {base64.b64encode(text.encode()).decode()}"


@pytest.fixture(scope="module")
def port():
    with serving(Door(inside, ApiKey(KEY), 1000)) as port:
        yield port


def test_password(port):
    for wrong in (
        {},
        {"Authorization": f"Bearer {KEY}"},
        {"Authorization": basic("me:wrong")},
        {"Authorization": "Basic %"},
    ):
        answer = ask(port, "GET", "/", **wrong)
        assert answer.status == 401
        assert answer.headers["www-authenticate"].startswith("Basic realm=")
        assert answer.body == b"the password is the API key of this server; any user name will do"
    for user in ("", "me"):
        assert ask(port, "GET", "/", Authorization=basic(f"{user}:{KEY}")).status == 200


def test_policy(port):
    answer = ask(port, "GET", "/", Authorization=basic(f":{KEY}"))
    assert "default-src 'self'" in answer.headers["content-security-policy"]
    assert "http" not in answer.headers["content-security-policy"]


def test_sizes_and_closed_addresses():
    with serving(Door(inside, None, 1000)) as port:
        assert ask(port, "POST", "/gradio_api/upload", bytes(100_000)).body == b"100000"
        answer = ask(port, "POST", "/gradio_api/upload", bytes(300_000))
        assert (answer.status, answer.body) == (413, b"over the limit of 1000 bytes a photo")
        assert ask(port, "POST", "/gradio_api/queue/join", bytes(1_000_001)).status == 413
        for address in ("file=/etc/passwd", "file/etc/passwd", "proxy=http://a/b", "component_server"):
            assert ask(port, "GET", f"/gradio_api/{address}").status == 404
        unsaid = ask(port, "POST", "/other", (bytes(100_000) for _ in range(30)), Transfer_Encoding="chunked")
        assert (unsaid.status, unsaid.body) == (413, b"over the limit of 1000 bytes a photo")
        assert ask(port, "GET", "/").status == 200
