"""Objective that turns a trained generator into one that needs only a few steps, and paints sharper with them."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import Any, cast

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import LCMScheduler, SchedulerMixin
from torch import nn
from transformers import CLIPVisionModelWithProjection

from ..attributes.encoder import encode_attributes
from ..faces.labels import PALETTE
from ..models.face_encoder import FaceEncoder
from .attribute_encoder import Questions
from .face_deid import FaceDeidObjective, Frozen, weighted_mean
from .look_reader import LookReader, is_seen

_COARSE = 4  # latents a side over which colours are averaged before they are compared
_PENALTY = 0.1  # weight of the approximated gradient penalties
_SHAKE = 0.1  # standard deviation, in units of the latents', of the noise that the penalties approximate gradients with

_GRAIN = 0.05  # standard deviation of the noise that readers see, so that no pattern too faint for people says much
_LEAST = 0.05  # weight of the distance to the original from pure noise: where the mouth is open, the map knows
_JUDGED = 8  # faces a batch, at most, that are decoded to be read
_REGION = 0.2  # weight of what a region shows of an attribute, against 1 of what the face does
_INNER = 0.75  # share of a crop's side that holds the face and is decoded for that


def few_step_scheduler(scheduler: SchedulerMixin) -> LCMScheduler:
    """The sampler of distilled models: predict the clean face, add fresh noise (Luo et al., 2023, algorithm 3)."""
    return LCMScheduler.from_config(scheduler.config)


class LatentDiscriminator(nn.Module):
    """Says of latents whether they are a photograph's, place by place, and whether they fit map and facts.

    The facts enter by projection (Miyato and Koyama, ICLR 2018).

    Args:
        facts: P, number of answers that faces are told apart by.
        factor: pixels of the map to a latent.
        widths: channels of each stage; each but the first halves the grid.
    """

    def __init__(self, facts: int, factor: int, widths: tuple[int, ...] = (64, 96, 128, 192)) -> None:
        super().__init__()
        self.factor = factor
        stages: list[nn.Module] = [nn.Conv2d(4 + 1 + 3 * factor**2, widths[0], 3, padding=1)]
        for before, width in pairwise(widths):
            body = [
                nn.GroupNorm(8, before),
                nn.LeakyReLU(0.2),
                nn.Conv2d(before, before, 3, padding=1),
                nn.LeakyReLU(0.2),
                nn.Conv2d(before, width, 4, 2, 1),
            ]
            stages.append(nn.Sequential(*body))
        self.stages = nn.ModuleList(stages)
        self.places = nn.ModuleList([nn.Conv2d(width, 1, 1) for width in widths[-2:]])
        self.whole, self.projection = nn.Linear(widths[-1], 1), nn.Linear(facts, widths[-1], bias=False)

    def forward(
        self, latents: torch.Tensor, mask: torch.Tensor, control: torch.Tensor, facts: torch.Tensor
    ) -> torch.Tensor:
        """(B, L) logits of (B, 4, h, w) latents under a (B, 1, h, w) mask, (B, 3, H, W) map and (B, P) facts."""
        x = torch.cat([latents, mask, F.pixel_unshuffle(control, self.factor)], 1)
        x = x.contiguous(memory_format=torch.channels_last)
        logits, first = [], len(self.stages) - len(self.places)
        for index, stage in enumerate(self.stages):
            x = stage(x)
            if index >= first:
                logits.append(self.places[index - first](F.leaky_relu(x, 0.2)).flatten(1))
        pooled = F.leaky_relu(x, 0.2).mean((2, 3))
        whole = self.whole(pooled) + (self.projection(facts) * pooled).sum(1, keepdim=True) / pooled.shape[1] ** 0.5
        size = max(one.shape[1] for one in logits)  # each scale counts as much as the finest
        return torch.cat([*(one.repeat(1, size // one.shape[1]) for one in logits), whole.repeat(1, size)], 1).float()


class FewStepObjective(FaceDeidObjective):
    """Adversarial distillation to a sampler that predicts the clean face, adds fresh noise, and predicts again.

    Turn "generator": at each of a few noise levels the predicted clean face has to deceive the discriminator (as in
    adversarial diffusion distillation; Sauer et al., 2023), to have the original's colours at the scale of
    a few latents, and to be near the original, the more so the more the noise leaves to see. Half of the noisy
    inputs start from the model's own first guess, as when sampling (DMD2; Yin et al., NeurIPS 2024). Turn
    "discriminator": a photograph has to look more real than what was painted in it (relativistic loss;
    Jolicoeur-Martineau, ICLR 2019), with an approximated gradient penalty on both (Lin et al., 2025; Huang et al.,
    NeurIPS 2024). Only what the mask covers is judged: around it the discriminator sees the original in both.

    Faces that start from noise, and so may come out as anybody, get a random look each, and two readers see the decoded
    faces: one has to read that look, and to the attribute encoder they have to show the attributes that were kept, or
    changed: for some, "man" becomes "woman" in tokens and facts alike.
    """

    turns = ("generator", "discriminator")
    description = (
        "Generator of a face de-identification pipeline, distilled to a few steps: semantic-map ControlNet and "
        "attribute adapter."
    )

    def __init__(
        self,
        *args: Any,
        questions: Questions,
        image_encoder: CLIPVisionModelWithProjection | FaceEncoder,
        sampling_steps: int = 4,
        adversarial_weight: float = 0.06,
        adversarial_start: int = 100,
        look_weight: float = 0.1,
        attribute_weight: float = 0.3,
        **options: Any,
    ) -> None:
        """Takes what ``FaceDeidObjective`` takes, and:

        Args:
            questions: answers by which the discriminator tells whether a face fits what is known of its original.
            image_encoder: reads the attributes.
            sampling_steps: noise levels that are trained, evenly spread from pure noise down.
            adversarial_weight: of the discriminator's judgement in the generator's loss.
            adversarial_start: steps for which only the discriminator heeds it; a beginner is deceived by anything.
            look_weight: of the squared error of the looks that are read.
            attribute_weight: of reading attributes again.
        """
        super().__init__(*args, train_unet=True, **options)
        self.questions = questions
        self.adversarial_weight, self.adversarial_start = adversarial_weight, adversarial_start
        self.sampler, self.sampling_steps = few_step_scheduler(self.scheduler), sampling_steps
        self.sampler.set_timesteps(sampling_steps)
        factor = 2 ** (len(self.controlnet.config.conditioning_embedding_out_channels) - 1)
        self.discriminator = LatentDiscriminator(len(questions.fact), factor)
        self.image_encoder = Frozen(image_encoder)
        self.look_weight, self.attribute_weight = look_weight, attribute_weight
        self.look_reader = Frozen(LookReader.fitted())
        #: Of the generator's turn, for the discriminator's on the same batches: what was made, and its facts.
        self.made: list[tuple[torch.Tensor, torch.Tensor]] = []

    def trained(self, turn: str) -> nn.Module:
        if turn == "discriminator":
            return self.discriminator
        unet = cast(nn.Module, self.unet)  # which is trained here, not frozen
        return nn.ModuleList([unet, self.controlnet, self.adapter])

    def rate(self, turn: str) -> float:
        """A discriminator from nothing has to keep up with a generator that can already paint (Heusel et al., 2017)."""
        return 3.0 if turn == "discriminator" else 1.0

    def forward(self, batch: Mapping[str, torch.Tensor], turn: str, step: int) -> tuple[torch.Tensor, dict[str, float]]:
        if turn == "discriminator":
            return self.judge(batch)
        latents, mask = batch["latents"], batch["mask"]
        count, device = len(latents), latents.device
        levels = self.sampler.timesteps.to(device)
        steps = levels[torch.randint(0, len(levels), (count,), device=device)]
        own = (steps < levels[0]) & (torch.rand(count, device=device) < 0.5)
        free = own | (steps == levels[0])
        wishes = self.wishes(batch["features"], batch["facts"], free, self.adapter)
        tokens = self.conditions(batch, wishes.features)
        control = self.control(torch.where(free[:, None, None, None], batch["painted"], batch["control"]))
        start = latents.clone()
        if own.any():
            start[own] = self.first_guess(batch, tokens, control, own)
        noise = torch.randn_like(latents)
        noisy = self.scheduler.add_noise(start, noise, steps)
        predicted = self.predict(noisy, steps, tokens, control, batch)
        clean = self.clean(noisy, predicted, steps)
        made = within(mask, clean, latents)
        facts = self.known(wishes.facts)
        self.made.append((made.detach(), facts))
        error, rim = self.errors(predicted, latents, noise, steps, mask)
        weight = self.min_snr(self.alphas(steps)).clamp(min=_LEAST)
        near = (weight * (error * ~wishes.changed + self.rim_weight * rim))[~own].sum() / count
        colour = weighted_mean(
            F.avg_pool2d(clean - latents, _COARSE).square(), F.avg_pool2d(mask, _COARSE) + 0.05
        ).mean()
        heeded = self.adversarial_weight * (step >= self.adversarial_start)
        with torch.no_grad():
            real = self.discriminator(jittered(latents), mask, batch["control"], self.known(batch["facts"]))
        deceit = F.softplus(real - self.discriminator(jittered(made), mask, batch["control"], facts)).mean()
        figures = {"near": float(near.detach()), "colour": float(colour.detach()), "deceit": float(deceit.detach())}
        loss = near + colour + heeded * deceit
        chosen = free.nonzero()[:_JUDGED, 0]
        if len(chosen):
            seen = self.decode(made[chosen])
            seen = seen + _GRAIN * torch.randn_like(seen)
            shown = [row for row, mesh in enumerate(batch["mesh"][chosen].cpu().numpy()) if is_seen(mesh)]
            read = self.look_reader(seen[shown], batch["mesh"][chosen[shown]])
            unread = (read - batch["look"][chosen[shown]]).square().mean() if shown else seen.new_zeros(())
            unkept = self.misread(seen, batch["control"][chosen], batch["mesh"][chosen], wishes.kept[chosen])
            loss = loss + self.look_weight * unread + self.attribute_weight * unkept
            figures |= {"look": float(unread.detach()), "unkept": float(unkept.detach())}
        return loss, figures

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        """(B, C, h, w) latents -> (B, 3, H, W) crops in -1..1, their border, where no face is, left grey."""
        vae = cast(Frozen, self.vae).module
        side = latents.shape[-1]
        inner = round(side * _INNER / 2) * 2
        first = (side - inner) // 2
        cut = latents[..., first : first + inner, first : first + inner]
        made = vae.decode((cut / vae.config.scaling_factor).contiguous(memory_format=torch.channels_last)).sample
        border = first * made.shape[-1] // inner
        return F.pad(made.float().clamp(-1, 1), [border] * 4)

    def misread(
        self, seen: torch.Tensor, control: torch.Tensor, meshes: torch.Tensor, kept: torch.Tensor
    ) -> torch.Tensor:
        """How far what the encoder reads of faces falls short of what was to be kept: 0 to 2.

        Args:
            seen: (B, 3, S, S) crops in -1..1.
            control: (B, 3, S, S) their coloured maps in 0..1.
            meshes: (B, 478, 2) that these were drawn from.
            kept: (B, N, D), what was to be kept, less the centre.
        """
        read = encode_attributes(self.image_encoder.module, seen, labels_of(control), meshes) - self.adapter.centre
        wanted, found = [], []
        for basis in self.wishes.subspace.bases.values():  # each attribute counts as much as any other
            wanted.append(kept @ basis.to(kept).T)
            found.append((read @ basis.to(read).T * wanted[-1]).sum(-1))
        length = torch.stack([one.norm(dim=-1) for one in wanted])
        # Only what was to be kept counts: the rest of what is read is free.
        short = (1 - torch.stack(found) / length.square().clamp(min=1e-6)).clamp(0, 2)
        weight = (length > 1e-3).float()
        weight[..., 1:] *= _REGION
        return (short * weight).sum() / weight.sum().clamp(min=1)

    @torch.no_grad()
    def first_guess(
        self, batch: Mapping[str, torch.Tensor], tokens: torch.Tensor, control: torch.Tensor, rows: torch.Tensor
    ) -> torch.Tensor:
        """Clean latents of the chosen rows as the model makes them from pure noise."""
        chosen = {name: batch[name][rows] for name in ("mask", "masked_latents")}
        noise = torch.randn_like(chosen["masked_latents"])
        steps = self.sampler.timesteps[:1].to(noise.device).expand(len(noise))
        return self.clean(noise, self.predict(noise, steps, tokens[rows], control[rows], chosen), steps)

    def judge(self, batch: Mapping[str, torch.Tensor]) -> tuple[torch.Tensor, dict[str, float]]:
        """The discriminator's loss on a batch and on what the generator made of it in the turn before."""
        made, facts = self.made.pop(0)
        both = [(jittered(batch["latents"]), self.known(batch["facts"])), (jittered(made), facts)]
        where = batch["mask"], batch["control"]
        real, fake = (self.discriminator(one, *where, known) for one, known in both)
        moved = [self.discriminator(one + _SHAKE * torch.randn_like(one), *where, known) for one, known in both]
        steep = sum((a - b).square().mean() for a, b in zip((real, fake), moved, strict=True))
        ahead = (real - fake).detach()
        return F.softplus(fake - real).mean() + _PENALTY * steep, {"ahead": float(ahead.mean())}

    def known(self, facts: torch.Tensor) -> torch.Tensor:
        """(B, F) codes -> (B, P) float32, 1 where an answer is true of a face, 0 where not or nothing is known."""
        return (facts[:, self.questions.fact.to(facts.device)] == self.questions.code.to(facts.device)).float()


def labels_of(control: torch.Tensor) -> torch.Tensor:
    """(B, 3, S, S) coloured maps in 0..1 -> (B, S, S) int64 labels."""
    colours = torch.from_numpy(PALETTE.astype(np.float32) / 255).to(control)
    apart = (control[:, None] - colours.view(1, -1, 3, 1, 1)).abs().sum(2)
    return apart.argmin(1)


def within(mask: torch.Tensor, made: torch.Tensor, around: torch.Tensor) -> torch.Tensor:
    """``made`` inside a (B, 1, h, w) mask in 0..1, ``around`` outside it."""
    return mask * made + (1 - mask) * around


def jittered(latents: torch.Tensor, most: float = 0.1) -> torch.Tensor:
    """Latents with a little noise, of another strength for each: else a few thousand faces would be learned."""
    strength = most * torch.rand(len(latents), 1, 1, 1, device=latents.device)
    return latents + strength * torch.randn_like(latents)
