"""A ComfyUI process and its HTTP API, for `real_comfyui.py`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any

PACK = Path(__file__).parents[2] / "comfyui"
_TIDY_HEAP = {"MALLOC_ARENA_MAX": "1", "MALLOC_MMAP_THRESHOLD_": "65536"}  # so that freed memory leaves the process
_PATIENCE = 1800  # seconds for a start or a prompt: on a CPU, Stable Diffusion 1.5 takes minutes


class Server:
    """ComfyUI on the CPU, with nothing but our pack, in a folder of its own."""

    def __init__(self, comfyui: Path, base: Path, port: int = 8199) -> None:
        """Start it and wait until it answers."""
        for name in ("custom_nodes", "input", "output", "models"):
            (base / name).mkdir(parents=True, exist_ok=True)
        link = base / "custom_nodes" / "deid-diffusion"
        if not link.exists():
            link.symlink_to(PACK)
        self.base, self.address, self.log_file = base, f"http://127.0.0.1:{port}", base / "log.txt"
        command = [sys.executable, "main.py", "--cpu", "--listen", "127.0.0.1", "--port", str(port)]
        with self.log_file.open("w") as log:
            self.process = subprocess.Popen(
                [*command, "--base-directory", str(base)],
                cwd=comfyui,
                env={**os.environ, **_TIDY_HEAP},
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        for _ in range(_PATIENCE):
            try:
                self.get("/system_stats")
                return
            except urllib.error.URLError:
                time.sleep(1)
                if self.process.poll() is not None:
                    break
        raise SystemExit(f"ComfyUI did not start: see {self.log_file}")

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(60)

    def get(self, path: str) -> Any:
        with urllib.request.urlopen(self.address + path, timeout=60) as answer:
            return json.loads(answer.read())

    def post(self, path: str, body: Mapping[str, Any]) -> Any:
        headers = {"Content-Type": "application/json"}
        request = urllib.request.Request(self.address + path, json.dumps(body).encode(), headers)
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                text = answer.read()
        except urllib.error.HTTPError as error:
            raise SystemExit(f"{path}: {error.code} {error.read().decode()[:2000]}") from None
        return json.loads(text) if text else None

    def queue(self, prompt: Mapping[str, Any]) -> str:
        return str(self.post("/prompt", {"prompt": prompt})["prompt_id"])

    def wait(self, prompt_id: str) -> dict[str, Any]:
        """The history of a prompt, once it is over."""
        for _ in range(_PATIENCE * 5):
            histories = self.get(f"/history/{prompt_id}")
            if prompt_id in histories and histories[prompt_id]["status"]["completed"] is not None:
                status = histories[prompt_id]["status"]
                if status["completed"] or status["status_str"] == "error":
                    return dict(histories[prompt_id])
            time.sleep(0.2)
        raise SystemExit(f"ComfyUI does not come to an end with a prompt: see {self.log_file}")

    def run(self, prompt: Mapping[str, Any]) -> dict[str, Any]:
        return self.wait(self.queue(prompt))

    def log(self) -> str:
        return self.log_file.read_text(errors="replace")

    def megabytes(self) -> int:
        """Resident memory of the process."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(status.split("VmRSS:")[1].split()[0]) // 1024
