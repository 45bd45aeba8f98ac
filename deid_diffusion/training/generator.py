"""Objective of the generator: ControlNet and adapter and, for the embedded model, the UNet itself."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, ControlNetModel, SchedulerMixin, UNet2DConditionModel
from torch import nn
from transformers import CLIPTextModel

from ..attributes.subspace import AttributeSubspace
from ..models.attribute_adapter import AttributeAdapter
from .captions import RandomSelection
from .validation import generation_sheet


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


def fit_erasure(first: torch.Tensor, second: torch.Tensor, known: torch.Tensor, rank: int) -> torch.Tensor:
    """(D, D) projection after which no linear reader finds the person, as far as ``rank`` directions tell.

    Closed-form concept erasure (LEACE; Belrose et al., NeurIPS 2023), P = I - W^+ V V^T W, W the whitening of the
    features: the least change to features in their own metric after which they do not covary with the concept. The
    concept is what two pictures of a person share beyond what is known of them: V are the leading directions of the
    whitened covariance between the residuals of the two, once a linear regression on the known attributes is taken out.

    Args:
        first, second: (N, D) features of two pictures of each of N people.
        known: (N, K) attributes of each person, as numbers; what they explain is no identity.
        rank: directions to erase, 0 to D.
    """
    first, second = (one.double() - one.double().mean(0) for one in (first, second))
    facts = known.double() - known.double().mean(0)
    rest, other = (one - facts @ torch.linalg.lstsq(facts, one, driver="gelsd").solution for one in (first, second))
    shared = rest.T @ other / len(rest)
    shared = (shared + shared.T) / 2
    both = torch.cat([first, second])
    sizes, vectors = torch.linalg.eigh(both.T @ both / len(both))
    held = sizes > 1e-6 * sizes[-1]
    sizes, vectors = sizes[held], vectors[:, held]
    whiten, colour = (vectors * sizes.pow(power) @ vectors.T for power in (-0.5, 0.5))
    _, directions = torch.linalg.eigh(whiten @ shared @ whiten)
    leading = directions[:, directions.shape[1] - rank :]
    return (torch.eye(first.shape[1], dtype=first.dtype) - colour @ leading @ leading.T @ whiten).float()


@torch.no_grad()
def teach_adapter(
    adapter: AttributeAdapter,
    features: torch.Tensor,
    said: Sequence[Mapping[str, str]],
    files: Sequence[str],
    subspace: AttributeSubspace,
    *,
    rank: int,
    seed: int,
) -> None:
    """Fill an adapter's buffers: centre, erasure and scale of phrases.

    Args:
        adapter: gets them.
        features: (N, R, D) of the training's faces.
        said: what is known of each.
        files: the photograph of each; those with two crops make the pairs that the erasure is fitted on.
        subspace: of all attributes; the erasure is fitted to what it lets through.
        rank: directions of identity to erase.
        seed: of the choice of pairs.
    """
    adapter.centre.copy_(features.mean(0))
    adapter.phrase_scale.fill_(phrase_scale(features[:, 0], subspace, said))
    pairs = pairs_of(files, np.random.default_rng(seed))
    if not rank or not len(pairs):
        return
    passed = subspace.project(features, tuple(subspace.words), features.mean(0))[:, 0]
    erasure = fit_erasure(passed[pairs[:, 0]], passed[pairs[:, 1]], one_hot([said[row] for row in pairs[:, 0]]), rank)
    adapter.erasure.copy_(erasure)


def one_hot(said: Sequence[Mapping[str, str]]) -> torch.Tensor:
    """(N, K) 1 where a fact's phrase is true of a face; free text left out."""
    answers = sorted({answer for one in said for answer in one.items() if answer[0] != "text"})
    return torch.tensor([[one.get(name) == text for name, text in answers] for one in said]).float()


def pairs_of(files: Sequence[str], rng: np.random.Generator) -> np.ndarray:
    """(N, 2) rows of two crops of each file that has two or more."""
    rows: dict[str, list[int]] = {}
    for index, name in enumerate(files):
        rows.setdefault(name, []).append(index)
    return np.array([rng.choice(found, 2, replace=False) for found in rows.values() if len(found) > 1])


def phrase_scale(features: torch.Tensor, subspace: AttributeSubspace, said: Sequence[Mapping[str, str]]) -> float:
    """How much longer the directions between faces are than those between captions, by least squares.

    Args:
        features: (N, D) whole-face features.
        subspace: of the captions' space.
        said: N faces' facts; those whose phrase is a word of an attribute count.
    """
    above = below = 0.0
    for name, words in subspace.words.items():
        found = {word: [k for k, one in enumerate(said) if word in one.values()] for word in words}
        used = [word for word in words if len(found[word]) >= 20]
        if len(used) < 2:
            continue
        images = torch.stack([features[found[word]].mean(0) for word in used])
        texts = torch.stack([subspace.directions[name][words.index(word)] for word in used]).to(images)
        images, texts = images - images.mean(0), texts - texts.mean(0)
        above, below = above + float((images * texts).sum()), below + float(texts.square().sum())
    return max(above / below, 0.1) if below else 1.0


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


class Frozen:
    """A model that is used and not trained: out of sight of parameters(), checkpoints, averages and wrappers."""

    def __init__(self, module: nn.Module) -> None:
        self.module: Any = module.requires_grad_(False).eval()

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.module(*args, **kwargs)


class FaceDeidObjective(Objective):
    """Denoising with the map, the masked picture, text and attribute tokens as conditions.

    Velocity or noise prediction; min-SNR weights (Hang et al., ICCV 2023); loss weighted to the masked region; each
    condition dropped at times for classifier-free guidance (Ho and Salimans, 2021); a term for the colour at the mask's
    rim; and, as an option, a term that drives the predicted face away from the original's identity.
    """

    description = "Generator of a face de-identification pipeline: semantic-map ControlNet and attribute adapter."
    unet: UNet2DConditionModel | Frozen
    text: Frozen
    vae: Frozen | None

    def __init__(
        self,
        unet: UNet2DConditionModel,
        controlnet: ControlNetModel,
        adapter: AttributeAdapter,
        scheduler: SchedulerMixin,
        text_encoder: CLIPTextModel,
        empty_ids: torch.Tensor,
        *,
        subspace: AttributeSubspace,
        train_unet: bool,
        snr_gamma: float = 5.0,
        outside_weight: float = 0.1,
        rim_weight: float = 0.5,
        drop: float = 0.1,
        text_share: float = 0.3,
        start_strength: float | None = None,
        repulsion: IdentityRepulsion | None = None,
        vae: AutoencoderKL | None = None,
        examples: Mapping[str, torch.Tensor] | None = None,
    ) -> None:
        """Takes the models.

        Args:
            empty_ids: (1, T) token ids of the empty text.
            subspace: of the attributes that users may keep.
            train_unet: whether the UNet is trained or only used.
            snr_gamma: of the min-SNR weights.
            outside_weight: of the error outside the mask, against 1 inside.
            rim_weight: of the smoothed error at the mask's rim.
            drop: share of faces that lose all their tokens; half of it lose their map.
            text_share: share of faces that get their caption as text; the others get the empty text.
            start_strength: learn only the last steps, this share of all, from composites: what is predicted at each is
                the photo that a composite was made of.
            repulsion: the identity term.
            vae, examples: for contact sheets, a batch of the data set's items; without them there are none.
        """
        super().__init__()
        self.controlnet, self.adapter, self.scheduler = controlnet, adapter, scheduler
        self.unet = unet if train_unet else Frozen(unet)
        self.text, self.repulsion = Frozen(text_encoder), repulsion
        self.snr_gamma, self.outside_weight, self.rim_weight = snr_gamma, outside_weight, rim_weight
        self.drop, self.text_share, self.empty_ids = drop, text_share, empty_ids
        self.wishes, self.start_strength = RandomSelection(subspace), start_strength
        self.vae, self.examples = None if vae is None else Frozen(vae), examples
        self.sampler, self.sampling_steps = scheduler, 8  # of contact sheets

    def trained(self, turn: str) -> nn.Module:
        return self

    def forward(self, batch: Mapping[str, torch.Tensor], turn: str, step: int) -> tuple[torch.Tensor, dict[str, float]]:
        latents, noise = batch["latents"], torch.randn_like(batch["latents"])
        last = int(self.scheduler.config.num_train_timesteps * (self.start_strength or 1))
        steps = torch.randint(0, last, (len(latents),), device=latents.device)
        noisy = self.scheduler.add_noise(latents if self.start_strength is None else batch["start"], noise, steps)
        nobody = torch.zeros(len(latents), dtype=torch.bool, device=latents.device)
        wished = self.wishes(batch["features"], batch["facts"], nobody, self.adapter).features
        predicted = self.predict(noisy, steps, self.conditions(batch, wished), self.control(batch["control"]), batch)
        alphas = self.alphas(steps)
        if self.start_strength is None:
            error, rim = self.errors(predicted, latents, noise, steps, batch["mask"])
            loss = (self.min_snr(alphas) * (error + self.rim_weight * rim)).mean()
        else:
            away = self.clean(noisy, predicted, steps) - latents
            error = weighted_mean(away.square(), self.outside_weight + (1 - self.outside_weight) * batch["mask"])
            rim = weighted_mean(F.avg_pool2d(away, 5, 1, 2).square(), rim_of(batch["mask"]))
            loss = (error + self.rim_weight * rim).mean()
        figures = {"error": float(error.detach().mean()), "rim": float(rim.detach().mean())}
        if self.repulsion is not None:
            likeness = self.repulsion(self.clean(noisy, predicted, steps), latents, alphas)
            loss, figures["likeness"] = loss + likeness, float(likeness.detach())
        return loss, figures

    @property
    def velocity(self) -> bool:
        """Whether the models predict velocity (Salimans and Ho, ICLR 2022), not noise."""
        return bool(self.scheduler.config.prediction_type == "v_prediction")

    def alphas(self, steps: torch.Tensor) -> torch.Tensor:
        """(B,) share of signal, as variance, at each step."""
        return self.scheduler.alphas_cumprod.to(steps.device)[steps]

    def predict(
        self,
        noisy: torch.Tensor,
        steps: torch.Tensor,
        tokens: torch.Tensor,
        control: torch.Tensor,
        batch: Mapping[str, torch.Tensor],
    ) -> torch.Tensor:
        """(B, 4, h, w) float32, what the models say of (B, 4, h, w) noisy latents at (B,) steps."""
        noisy = noisy.contiguous(memory_format=torch.channels_last)
        down, middle = self.controlnet(noisy, steps, tokens, control, return_dict=False)
        return self.unet(
            torch.cat([noisy, batch["mask"], batch["masked_latents"]], 1),
            steps,
            tokens,
            down_block_additional_residuals=down,
            mid_block_additional_residual=middle,
        ).sample.float()

    def clean(self, noisy: torch.Tensor, predicted: torch.Tensor, steps: torch.Tensor) -> torch.Tensor:
        """(B, 4, h, w) clean latents that a prediction amounts to."""
        alphas = self.alphas(steps).view(-1, 1, 1, 1)
        scale, sigma = alphas.sqrt(), (1 - alphas).sqrt()
        return scale * noisy - sigma * predicted if self.velocity else (noisy - sigma * predicted) / scale

    def errors(
        self,
        predicted: torch.Tensor,
        latents: torch.Tensor,
        noise: torch.Tensor,
        steps: torch.Tensor,
        mask: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """(B,) squared errors of predictions, weighted to the mask, and of their smoothed error at its rim."""
        target = self.scheduler.get_velocity(latents, noise, steps) if self.velocity else noise
        where = self.outside_weight + (1 - self.outside_weight) * mask
        error = weighted_mean((predicted - target).square(), where)
        return error, weighted_mean(F.avg_pool2d(predicted - target, 5, 1, 2).square(), rim_of(mask))

    def min_snr(self, alphas: torch.Tensor) -> torch.Tensor:
        """(B,) min-SNR weights of what is predicted."""
        snr = alphas / (1 - alphas).clamp(min=1e-8)
        return snr.clamp(max=self.snr_gamma) / (snr + 1 if self.velocity else snr.clamp(min=1e-8))

    def control(self, maps: torch.Tensor) -> torch.Tensor:
        """(B, 3, S, S) coloured maps, some of them dropped at random."""
        control = maps.contiguous(memory_format=torch.channels_last)
        return control * (torch.rand(len(control), 1, 1, 1, device=control.device) > self.drop / 2)

    def conditions(self, batch: Mapping[str, torch.Tensor], features: torch.Tensor) -> torch.Tensor:
        """(B, T + N, W) text and attribute tokens; text, all attributes, or single ones are dropped at random."""
        count, device = len(features), features.device
        spoken = torch.rand(count, 1, device=device) < self.text_share
        ids = torch.where(spoken, batch["input_ids"], self.empty_ids.to(device))
        with torch.no_grad():
            texts = self.text(input_ids=ids).last_hidden_state
        tokens = self.adapter(features)
        whole = torch.rand(count, 1, 1, device=device) < self.drop
        single = torch.rand(count, tokens.shape[1], 1, device=device) < self.drop
        tokens = torch.where(whole | single, self.adapter.null(count).to(tokens), tokens)
        return torch.cat([texts.to(tokens), tokens], 1)

    def validate(self) -> np.ndarray | None:
        if self.vae is None or self.examples is None:
            return None
        features = self.examples["features"].to(self.adapter.device)
        every = self.wishes.subspace
        grain = every.grain(float(self.adapter.phrase_scale))
        wished = every.project(features, tuple(every.words), self.adapter.centre, grain)
        tokens = self.adapter(wished)
        texts = self.text(input_ids=self.empty_ids.to(tokens.device)).last_hidden_state
        tokens = torch.cat([texts.expand(len(tokens), -1, -1).to(tokens), tokens], 1)
        models = self.unet, self.controlnet, self.sampler, self.vae.module
        return generation_sheet(*models, self.examples, tokens, steps=self.sampling_steps)

    def enable_gradient_checkpointing(self) -> None:
        super().enable_gradient_checkpointing()
        if isinstance(self.unet, Frozen):  # gradients pass through it on their way to the ControlNet
            self.unet.module.enable_gradient_checkpointing()

    def save(self, folder: Path) -> None:
        if not isinstance(self.unet, Frozen):
            self.unet.save_pretrained(folder / "unet")
        self.controlnet.save_pretrained(folder / "controlnet")
        self.adapter.save_pretrained(folder / "attribute_adapter")
        self.sampler.save_pretrained(folder / "scheduler")


def weighted_mean(values: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """(B,) mean of (B, C, h, w) values over all but the batch, by (B, 1, h, w) weights."""
    return (values * weights).sum((1, 2, 3)) / weights.sum((1, 2, 3)).clamp(min=1e-6) / values.shape[1]


def rim_of(mask: torch.Tensor, reach: int = 2) -> torch.Tensor:
    """(B, 1, h, w) 1 within ``reach`` cells of the edge of a mask in 0..1, else 0."""
    size = 2 * reach + 1
    return F.max_pool2d(mask, size, 1, reach) + F.max_pool2d(-mask, size, 1, reach)
