"""Loading of our own small models from diffusers-format folders without diffusers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TypeVar

from torch import nn

from ..errors import DeidError, one_line

_Model = TypeVar("_Model", bound=nn.Module)


def load_plain(kind: type[_Model], folder: str | Path) -> _Model:
    """A model of a kind, in float32 and evaluation mode, from its ``config.json`` and ``.safetensors`` file.

    Args:
        kind: `AttributeTokens` or `FaceNetwork`: the class under the one that diffusers knows.
        folder: written by that class's ``save_pretrained``.

    Raises:
        DeidError: when the folder lacks a file or holds another model.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    folder = Path(folder)
    try:
        config = json.loads((folder / "config.json").read_text())
        model = kind(**{name: value for name, value in config.items() if not name.startswith("_")})
        model.load_state_dict(load_file(folder / "diffusion_pytorch_model.safetensors"))
    except (OSError, ValueError, TypeError, AttributeError, RuntimeError, SafetensorError) as error:
        reason = one_line(error)[:160]
        raise DeidError(f"{folder}: no {kind.__name__} can be loaded from there ({reason}): give its folder") from error
    return model.float().eval()
