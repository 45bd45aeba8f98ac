"""Where a model runs, and with what numbers."""

from __future__ import annotations

import torch

from .errors import DeidError


def pick_device(name: str) -> torch.device:
    """The device of a name; "auto" is a GPU where there is one, else the CPU.

    Raises:
        DeidError: for a device that is not there.
    """
    if name == "auto":
        return torch.device(
            "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
        )
    try:
        picked = torch.device(name)
        torch.empty(1, device=picked)
    except (RuntimeError, AssertionError) as error:
        raise DeidError(f"--device {name}: not available here; use auto, cpu, cuda, cuda:N or mps") from error
    return picked


def fastest_dtype(device: torch.device) -> torch.dtype:
    """float16 on CUDA; bfloat16 on a CPU with instructions for it, where it takes two thirds of the time; else float32.

    Older versions of PyTorch cannot tell whether a CPU has them.
    """
    if device.type == "cuda":
        return torch.float16
    known = (getattr(torch.cpu, f"_is_{name}_supported", None) for name in ("avx512_bf16", "amx_tile"))
    if device.type == "cpu" and any(ask is not None and ask() for ask in known):
        return torch.bfloat16
    return torch.float32
