"""Identity repulsion: an optional term that punishes predicted faces for looking like the original's person."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL


class IdentityRepulsion:
    """Hinge on the cosine between a recogniser's embeddings of the predicted and of the original face.

    A denoiser trained to reconstruct learns to copy whatever its conditions tell of a person; this pulls the other way,
    at the steps where the prediction already shows a face. Not part of any checkpoint.
    """

    def __init__(
        self,
        vae: AutoencoderKL,
        recogniser: Callable[[torch.Tensor], torch.Tensor],
        *,
        weight: float = 0.1,
        margin: float = 0.2,
        side: int = 112,
        inner: float = 0.75,
    ) -> None:
        """Takes the VAE of the latents, frozen.

        Args:
            vae: decodes predictions; gradients flow through it.
            recogniser: differentiable, (B, 3, side, side) in -1..1 -> (B, D) embeddings. Never the one that verifies.
            weight: of the term in the loss.
            margin: cosine under which a face is far enough.
            side: of the recogniser's input, in pixels.
            inner: share of the crop's side that holds the face.
        """
        self.vae, self.recogniser = vae, recogniser
        self.weight, self.margin, self.side, self.inner = weight, margin, side, inner

    def __call__(self, predicted: torch.Tensor, latents: torch.Tensor, alphas: torch.Tensor) -> torch.Tensor:
        """The weighted term, a scalar.

        Args:
            predicted: (B, C, h, w) clean latents as the model predicts them.
            latents: (B, C, h, w) those of the original.
            alphas: (B,) share of signal at each one's step; noisy predictions count less.
        """
        made = self._embed(predicted)
        with torch.no_grad():
            original = self._embed(latents)
        cosine = (made * original).sum(1)
        return self.weight * (alphas * (cosine - self.margin).clamp(min=0)).mean()

    def _embed(self, latents: torch.Tensor) -> torch.Tensor:
        pixels = self.vae.decode(latents / self.vae.config.scaling_factor).sample
        edge = round(pixels.shape[-1] * (1 - self.inner) / 2)
        face = pixels[..., edge : pixels.shape[-2] - edge, edge : pixels.shape[-1] - edge]
        face = F.interpolate(face.float(), (self.side, self.side), mode="bilinear", antialias=True)
        return F.normalize(self.recogniser(face.clamp(-1, 1)).float(), dim=1)
