"""The Python of docs/service.md runs against a service."""

import re
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("fastapi", reason="the service needs deid-diffusion[service]")

from deid_diffusion import images
from deid_diffusion.service.app import make_app
from deid_diffusion.service.limits import Limits
from tests.fake_anonymizer import FakeAnonymizer, expected

from .servers import encoded, serving


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
