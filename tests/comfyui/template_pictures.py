"""Opens the templates in ComfyUI's own page, in a Chromium without a window, and takes their pictures.

    PYTHON_OF_COMFYUI tests/comfyui/template_pictures.py COMFYUI_FOLDER WORK_FOLDER

Run it after `real_comfyui.py`, in the same folders. It fails if the page sends anything else to the API than the trial
does, as when a widget of ours is counted wrongly. The first template is run, so that its picture shows results.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import io
import json
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import aiohttp
from PIL import Image
from server import PACK, Server
from workflows import to_prompt

EXAMPLES = PACK / "example_workflows"
TEMPLATES = ("de-identify_faces", "faces_by_your_own_checkpoint")
_PORT = 9333
_WIDTH, _MARGIN = 1600, 24
_SETTINGS = {"Comfy.TutorialCompleted": True, "Comfy.Minimap.Visible": False, "Comfy.Graph.CanvasInfo": False}
_READY = "!!window.app?.graph && !!window.LiteGraph?.registered_node_types['DeidStitchFaces']"
_EXTENT = """(() => {
    const {scale, offset} = app.canvas.ds, nodes = app.graph._nodes, top = app.canvasEl.getBoundingClientRect();
    const low = k => Math.min(...nodes.map(n => n.pos[k]));
    const high = k => Math.max(...nodes.map(n => n.pos[k] + n.size[k]));
    const place = (k, value) => (value + offset[k]) * scale + [top.left, top.top][k];
    return [place(0, low(0)), place(1, low(1) - 30), place(0, high(0)), place(1, high(1))];
})()"""


class Page:
    """A tab of Chromium, by its DevTools protocol."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self._socket, self._count = socket, 0

    async def call(self, method: str, **params: Any) -> dict[str, Any]:
        self._count += 1
        await self._socket.send_json({"id": self._count, "method": method, "params": params})
        while True:
            message = json.loads((await asyncio.wait_for(self._socket.receive(), 180)).data)
            if message.get("id") == self._count:
                return dict(message["result"])

    async def run(self, script: str) -> Any:
        done = await self.call("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        return done["result"].get("value")

    async def picture(self) -> Image.Image:
        shot = await self.call("Page.captureScreenshot", format="png")
        return Image.open(io.BytesIO(base64.b64decode(shot["data"]))).convert("RGB")


async def open_page(session: aiohttp.ClientSession) -> Page:
    for _ in range(60):
        try:
            async with session.get(f"http://127.0.0.1:{_PORT}/json") as answer:
                tabs = [tab for tab in await answer.json() if tab["type"] == "page"]
            return Page(await session.ws_connect(tabs[0]["webSocketDebuggerUrl"], max_msg_size=0))
        except aiohttp.ClientError:
            await asyncio.sleep(1)
    raise SystemExit("Chromium did not start")


async def take(page: Page, server: Server, name: str) -> None:
    """Open a template, compare the prompt that the page would send, run the first one, and save its picture."""
    text = (EXAMPLES / f"{name}.json").read_text()
    await page.run(f"app.loadGraphData({text})")
    await asyncio.sleep(3)
    sent = json.loads(await page.run("app.graphToPrompt().then(made => JSON.stringify(made.output))"))
    ours = to_prompt(json.loads(text), server.get("/object_info"))
    for place, node in ours.items():
        same = {key: sent[place]["inputs"][key] for key in node["inputs"]}
        assert same == node["inputs"], f"{name}: the page sends {same}, the trial {node['inputs']}"
    if name == TEMPLATES[0]:
        await page.run("app.queuePrompt(0)")
        while not any(history["status"]["completed"] for history in server.get("/history").values()):
            await asyncio.sleep(1)
        await asyncio.sleep(6)
    left, top, right, bottom = await page.run(_EXTENT)
    shot = (await page.picture()).crop((left - _MARGIN, top - _MARGIN, right + _MARGIN, bottom + _MARGIN))
    shot.thumbnail((_WIDTH, _WIDTH), Image.Resampling.LANCZOS)
    shot.save(EXAMPLES / f"{name}.jpg", quality=85)


async def take_all(server: Server) -> None:
    async with aiohttp.ClientSession() as session:
        page = await open_page(session)
        await page.call("Page.navigate", url=server.address)
        while not await page.run(_READY):
            await asyncio.sleep(1)
        await asyncio.sleep(5)
        for name in TEMPLATES:
            await take(page, server, name)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("comfyui", type=Path)
    parser.add_argument("work", type=Path)
    args = parser.parse_args()
    server = Server(args.comfyui.resolve(), args.work.resolve())
    profile = tempfile.mkdtemp()
    flags = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run"]
    flags += [
        f"--remote-debugging-port={_PORT}",
        f"--user-data-dir={profile}",
        "--window-size=2700,1150",
        "about:blank",
    ]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    browser = subprocess.Popen([shutil.which("chromium") or "google-chrome", *flags], **quiet)
    try:
        server.post("/settings", _SETTINGS)
        asyncio.run(take_all(server))
    finally:
        browser.terminate()
        server.stop()
        shutil.rmtree(profile, ignore_errors=True)


if __name__ == "__main__":
    main()
