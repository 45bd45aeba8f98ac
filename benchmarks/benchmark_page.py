"""The page that the benchmarks write: each script has its own part of it, between two marks."""

from __future__ import annotations

import os
import platform
import re
from datetime import date
from importlib import metadata
from pathlib import Path

import torch

HEAD = """# Benchmarks

Each part is written by the script that it names, with everything that a reader needs to judge it: data, judges, machine
and date. Parts of different dates may be of different weights.
"""


def put(page: Path, mark: str, text: str) -> None:
    """Write a part of the page, in place of what the same script wrote before."""
    start, end = f"<!-- {mark}: written by a script -->", f"<!-- end of {mark} -->"
    part = f"{start}\n{text.strip()}\n{end}"
    old = page.read_text(encoding="utf-8") if page.exists() else HEAD
    before, found, rest = old.partition(start)
    after = rest.partition(end)[2] if found else ""
    page.write_text(f"{before.rstrip()}\n\n{part}\n\n{after.strip()}".rstrip() + "\n", encoding="utf-8")


def machine(device: torch.device) -> str:
    """Where and when, in one line: processor or GPU, cores, memory, software, date, and what else the machine did."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    cores = f"{_processor()}, {len(os.sched_getaffinity(0))} cores, {torch.get_num_threads()} threads, {memory:.0f} GB"
    gpu = f"{torch.cuda.get_device_name(device)}, " if device.type == "cuda" else ""
    software = ", ".join(f"{name} {metadata.version(name)}" for name in ("deid-diffusion", "torch", "diffusers"))
    return (
        f"{gpu}{cores}; Python {platform.python_version()}, {software}; {date.today().isoformat()}; "
        f"load of the last minute at the end {os.getloadavg()[0]:.1f}"
    )


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    found = re.search(r"model name\s*:\s*(.+)", info.read_text()) if info.exists() else None
    return found[1].strip() if found else platform.processor() or platform.machine()
