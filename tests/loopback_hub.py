"""A hub on this machine's loopback address: enough of the Hugging Face hub's interface to download models from."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

import huggingface_hub
import pytest

COMMIT = "c" * 40


class _Hub(ThreadingHTTPServer):
    """Attributes: folders by repository name; the files that were downloaded."""

    daemon_threads = True
    folders: dict[str, Path]
    downloads: list[str]


class _Handler(BaseHTTPRequestHandler):
    server: _Hub

    def log_message(self, *_: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def _answer(self, body: bool) -> None:
        parts = unquote(urlsplit(self.path).path).strip("/").split("/")
        if parts[:2] == ["api", "models"]:
            folder = self.server.folders.get("/".join(parts[2:4]))
            if folder is None:
                return self._send(404, b"{}", body, {"X-Error-Code": "RepoNotFound"})
            files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
            if parts[4:5] == ["tree"]:
                return self._send(200, json.dumps([_entry(folder, file) for file in files]).encode(), body)
            siblings = [{"rfilename": file.relative_to(folder).as_posix()} for file in files]
            about = {"id": "/".join(parts[2:4]), "sha": COMMIT, "siblings": siblings, "tags": [], "private": False}
            return self._send(200, json.dumps(about).encode(), body)
        path = self.server.folders.get("/".join(parts[:2]), Path("/nowhere")) / "/".join(parts[4:])
        if not path.is_file():
            return self._send(404, b"", body, {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": COMMIT})
        if body:
            self.server.downloads.append("/".join(parts[4:]))
        data = path.read_bytes()
        etag = hashlib.sha1(data).hexdigest()
        return self._send(200, data, body, {"ETag": f'"{etag}"', "X-Repo-Commit": COMMIT})

    def _send(self, code: int, data: bytes, body: bool, headers: dict[str, str] | None = None) -> None:
        self.send_response(code)
        for name, value in {"Content-Length": str(len(data)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if body:
            self.wfile.write(data)


def _entry(folder: Path, path: Path) -> dict[str, object]:
    oid = hashlib.sha1(path.read_bytes()).hexdigest()
    name = path.relative_to(folder).as_posix()
    return {"type": "file", "path": name, "size": path.stat().st_size, "oid": oid}


@contextmanager
def loopback_hub(patch: pytest.MonkeyPatch, cache: Path, folders: dict[str, Path]) -> Iterator[list[str]]:
    """Connect the hub's client to this hub, with an empty cache; yield the names of the files that it downloads.

    Args:
        patch: undone afterwards.
        cache: folder of the cache.
        folders: repositories by name.
    """
    server = _Hub(("127.0.0.1", 0), _Handler)
    server.folders, server.downloads = folders, []
    address = f"http://127.0.0.1:{server.server_port}"
    constants = huggingface_hub.constants
    patch.setattr(constants, "HF_HUB_OFFLINE", False)
    patch.setattr(constants, "HF_HUB_CACHE", str(cache))
    patch.setattr(constants, "ENDPOINT", address)
    template = address + "/{repo_id}/resolve/{revision}/{filename}"
    for module in (constants, huggingface_hub.file_download):  # older clients have a copy
        patch.setattr(module, "HUGGINGFACE_CO_URL_TEMPLATE", template, raising=False)
    patch.setattr(huggingface_hub.hf_api.api, "endpoint", address)
    reset_sessions = getattr(
        huggingface_hub.utils, "reset_sessions", lambda: None
    )  # older clients keep one that is offline
    reset_sessions()
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server.downloads
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
        reset_sessions()
