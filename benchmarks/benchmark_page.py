"""Page that the benchmarks write: every script owns a part of it, between two marks."""

from __future__ import annotations

import os
import platform
import re
from datetime import date
from importlib import metadata
from pathlib import Path

import torch

HEAD = """# Benchmarks

Every part is written by the script that it names, with data, evaluators, machine and date. Parts of different dates may
be of different weights.
"""


def put(page: Path, mark: str, text: str) -> None:
    """Write a part of the page, replacing the previous one with the same mark."""
    start, end = f"<!-- {mark}: written by a script -->", f"<!-- end of {mark} -->"
    part = f"{start}\n{text.strip()}\n{end}"
    old = page.read_text(encoding="utf-8") if page.exists() else HEAD
    before, match, rest = old.partition(start)
    after = rest.partition(end)[2] if match else ""
    page.write_text(f"{before.rstrip()}\n\n{part}\n\n{after.strip()}".rstrip() + "\n", encoding="utf-8")


def machine(device: torch.device) -> str:
    """Describe the machine in one line: processor or GPU, cores, memory, software, date and load."""
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
    match = re.search(r"model name\s*:\s*(.+)", info.read_text()) if info.exists() else None
    return match[1].strip() if match else platform.processor() or platform.machine()
