"""What a training is about: the models and their loss, apart from how they are trained."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import nn


class Objective(nn.Module):
    """Models and their loss in one module, so that one ``forward`` is all that DDP and FSDP have to wrap.

    A plain objective has one turn; an adversarial one has two, each with an optimizer of its own.

    Attributes:
        description: what is trained, a sentence for the model card.
        license: of the finished model, as the Hugging Face hub spells it.
    """

    turns: tuple[str, ...] = ("model",)
    description: str = "Models of a face de-identification pipeline."
    license: str = "apache-2.0"

    def trained(self, turn: str) -> nn.Module:
        """The module whose parameters this turn's optimizer moves."""
        raise NotImplementedError

    def rate(self, turn: str) -> float:
        """What the configured learning rate is multiplied by in this turn."""
        return 1.0

    def forward(self, batch: Mapping[str, torch.Tensor], turn: str, step: int) -> tuple[torch.Tensor, dict[str, float]]:
        """The loss (a scalar) of one turn and the figures to log."""
        raise NotImplementedError

    def save(self, folder: Path) -> None:
        """Write the finished models."""
        raise NotImplementedError

    def validate(self) -> np.ndarray | None:
        """A contact sheet, (H, W, 3) uint8, of what the models do now; None when there is nothing to see.

        Called in the main process alone, without gradients, with the averaged weights in place where there are any.
        """
        return None

    def enable_gradient_checkpointing(self) -> None:
        """Switch it on in every diffusers and transformers model that can.

        Raises:
            ValueError: when none can.
        """
        able, models = 0, cast(Iterable[Any], self.children())
        for model in models:
            if getattr(model, "_supports_gradient_checkpointing", False):  # diffusers
                model.enable_gradient_checkpointing()
            elif getattr(model, "supports_gradient_checkpointing", False):  # transformers
                model.gradient_checkpointing_enable({"use_reentrant": False})
            else:
                continue
            able += 1
        if not able:
            raise ValueError("--gradient_checkpointing: none of the models here knows it")
