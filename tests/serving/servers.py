"""An ASGI application on a socket, served by a thread of the test, and a client for it."""

from __future__ import annotations

import http.client
import io
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import uvicorn
from PIL import Image

from deid_diffusion.serving.server import listen

KEY = "an-api-key-of-the-test"
PHOTO = np.random.default_rng(0).integers(0, 256, (24, 32, 3), dtype=np.uint8)


@dataclass(frozen=True)
class Answer:
    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def pixels(self) -> np.ndarray:
        return np.asarray(Image.open(io.BytesIO(self.body)).convert("RGB"))


@contextmanager
def serving(app: Any) -> Iterator[int]:
    """Serve an application inside the block; yield its port."""
    server_socket = listen("127.0.0.1", 0)
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning", access_log=False, timeout_graceful_shutdown=1))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [server_socket]}, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    try:
        yield server_socket.getsockname()[1]
    finally:
        server.should_exit = True
        thread.join(30)


def start_python(script: str) -> subprocess.Popen[str]:
    """Start a Python process without the API key of the environment."""
    return subprocess.Popen(
        [sys.executable, "-c", script],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[2],
        env={name: value for name, value in os.environ.items() if name != "DEID_API_KEY"},
    )


def ask(port: int, method: str, path: str, body: Any = None, **headers: str) -> Answer:
    """Send a request; underscores in header names stand for hyphens."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        sent_headers = {name.replace("_", "-"): value for name, value in headers.items()}
        connection.request(method, path, body, sent_headers, encode_chunked="Transfer-Encoding" in sent_headers)
        response = connection.getresponse()
        fields = {name.lower(): value for name, value in response.getheaders()}
        return Answer(response.status, fields, response.read())
    finally:
        connection.close()


def encoded(pixels: np.ndarray, kind: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind, **options)
    return buffer.getvalue()


def plain(colour: tuple[int, int, int], size: tuple[int, int] = (24, 32)) -> np.ndarray:
    return np.full((*size, 3), colour, np.uint8)


def stored_files(folder: Path) -> list[Path]:
    """Return the files in the upload folder that are not empty."""
    return [path for path in folder.rglob("*") if path.is_file() and path.stat().st_size]
