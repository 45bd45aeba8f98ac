"""Headless Chromium that opens a page and records console messages and requests."""

import json
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

NAMES = ("chromium", "chromium-browser", "google-chrome")
_BROWSER_ITSELF = "not an origin"  # initiator of requests that no page made, such as for updates


@dataclass(frozen=True)
class Opened:
    """Console messages, requested addresses and screenshot of a page."""

    console: list[str]
    requests: list[str]
    picture: Path


def browser() -> str | None:
    return next((path for name in NAMES if (path := shutil.which(name))), None)


def open_page(page: Path, folder: Path, width: int = 1180, height: int = 4200) -> Opened:
    picture, net = folder / f"{page.stem}.png", folder / f"{page.stem}.net.json"
    flags = [
        "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run",
        "--disable-background-networking", "--disable-component-update", "--disable-extensions", "--hide-scrollbars",
        "--host-resolver-rules=MAP * ~NOTFOUND", "--enable-logging=stderr", f"--user-data-dir={folder / 'profile'}",
        f"--window-size={width},{height}", f"--log-net-log={net}", f"--screenshot={picture}",
    ]  # fmt: skip
    process = subprocess.run([browser(), *flags, page.as_uri()], capture_output=True, text=True, timeout=60, check=True)
    requests = [
        event["params"] for event in json.loads(net.read_text())["events"] if "initiator" in event.get("params", {})
    ]
    return Opened(
        console=[line for line in process.stderr.splitlines() if "CONSOLE" in line],
        requests=[params["url"] for params in requests if params["initiator"] != _BROWSER_ITSELF],
        picture=picture,
    )
