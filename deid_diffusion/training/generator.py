"""Training of the generator: ControlNet, attribute adapter and, for the built-in model, the UNet."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, ControlNetModel, SchedulerMixin, UNet2DConditionModel
from torch import nn
from torchvision.utils import make_grid
from transformers import CLIPTextModel

from ..attributes.subspace import AttributeSubspace
from ..models.attribute_adapter import AttributeAdapter
from .captions import RandomSelection

_SHEET_STEPS = 8  # denoising steps of contact sheets
_OUTSIDE_WEIGHT = 0.1  # of the error outside the mask, relative to 1 inside
_RIM = 2  # cells on both sides of a mask's edge that count as its rim
_DROP = 0.1  # share of faces without attribute tokens; half as many lose their map
_TEXT_SHARE = 0.3  # share of faces with their caption as text; the others get the empty text
_MAX_COSINE = 0.2  # of the embeddings of predicted and original face, without identity repulsion
_FACE_SHARE = 0.75  # of a crop's side


class Objective(nn.Module):
    """Models and their loss in one module, so that DDP and FSDP wrap a single ``forward``.

    A plain objective has one phase per step; an adversarial one has two, each with its own optimizer.

    Attributes:
        description: of the trained models, a sentence for the model card.
        license: of the trained models, an identifier of the Hugging Face hub.
    """

    phases: tuple[str, ...] = ("model",)
    description: str = "Models of a face de-identification pipeline."
    license: str = "apache-2.0"

    def trainable(self, phase: str) -> nn.Module:
        """Return the module whose parameters are optimized in a phase: the objective, unless overridden."""
        return self

    def forward(
        self, batch: Mapping[str, torch.Tensor], phase: str, step: int
    ) -> tuple[torch.Tensor, dict[str, float]]:
        """Return the loss of a phase, a scalar, and the figures to log."""
        raise NotImplementedError

    def save(self, folder: Path) -> None:
        """Write the trained models."""
        raise NotImplementedError

    def validate(self) -> np.ndarray | None:
        """Return a contact sheet of current results, (H, W, 3) uint8, or None.

        Called in the main process alone, without gradients and with the averaged weights, if any.
        """
        return None

    def enable_gradient_checkpointing(self) -> None:
        """Enable gradient checkpointing in every diffusers and transformers model that supports it.

        Raises:
            ValueError: when none does.
        """
        count, models = 0, cast(Iterable[Any], self.children())
        for model in models:
            if getattr(model, "_supports_gradient_checkpointing", False):  # diffusers
                model.enable_gradient_checkpointing()
            elif getattr(model, "supports_gradient_checkpointing", False):  # transformers
                model.gradient_checkpointing_enable({"use_reentrant": False})
            else:
                continue
            count += 1
        if not count:
            raise ValueError("--gradient_checkpointing: no model of this training supports it: leave it out")


def fit_erasure(first: torch.Tensor, second: torch.Tensor, known: torch.Tensor, rank: int) -> torch.Tensor:
    """Return a (D, D) projection that erases the leading linear directions of identity from features.

    Closed-form concept erasure (LEACE; Belrose et al., NeurIPS 2023): P = I - W^+ V V^T W, with W the whitening of the
    features, is the smallest change in their own metric after which they do not covary with the concept. The concept
    is what two pictures of a person share beyond the known attributes: V are the leading directions of the whitened
    covariance between the two pictures' residuals of a linear regression on these.

    Args:
        first, second: (N, D) features of two pictures of each of N people.
        known: (N, K) numeric attributes of each person, which are not erased.
        rank: number of directions to erase, 0 to D.
    """
    first, second = (features.double() - features.double().mean(0) for features in (first, second))
    known = known.double() - known.double().mean(0)
    residual, other = (
        features - known @ torch.linalg.lstsq(known, features, driver="gelsd").solution for features in (first, second)
    )
    shared = residual.T @ other / len(residual)
    shared = (shared + shared.T) / 2
    both = torch.cat([first, second])
    variances, vectors = torch.linalg.eigh(both.T @ both / len(both))
    nonzero = variances > 1e-6 * variances[-1]
    variances, vectors = variances[nonzero], vectors[:, nonzero]
    whiten, colour = (vectors * variances.pow(power) @ vectors.T for power in (-0.5, 0.5))
    _, directions = torch.linalg.eigh(whiten @ shared @ whiten)
    leading = directions[:, directions.shape[1] - rank :]
    return (torch.eye(first.shape[1], dtype=first.dtype) - colour @ leading @ leading.T @ whiten).float()


@torch.no_grad()
def initialize_adapter(
    adapter: AttributeAdapter,
    features: torch.Tensor,
    facts: Sequence[Mapping[str, str]],
    files: Sequence[str],
    subspace: AttributeSubspace,
    *,
    rank: int,
    seed: int,
) -> None:
    """Fit an adapter's buffers to the training data: feature centre, identity erasure and scale of phrases.

    Args:
        adapter: changed in place.
        features, facts: (N, R, D) and facts of the N training faces.
        files: N photographs; two crops of one, chosen by the seed, make a pair for the erasure.
        subspace: of the attributes that users may keep.
        rank: of the erasure, 0 for none.
    """
    adapter.centre.copy_(features.mean(0))
    adapter.phrase_scale.fill_(phrase_scale(features[:, 0], subspace, facts))
    pairs = crop_pairs(files, np.random.default_rng(seed))
    if not rank or not len(pairs):
        return
    projected = subspace.project(features, tuple(subspace.words), features.mean(0))[:, 0]
    known = one_hot([facts[row] for row in pairs[:, 0]])
    adapter.erasure.copy_(fit_erasure(projected[pairs[:, 0]], projected[pairs[:, 1]], known, rank))


def one_hot(facts: Sequence[Mapping[str, str]]) -> torch.Tensor:
    """Return (N, K) floats, 1 where a phrase is true of a face; free text is left out."""
    phrases = sorted({phrase for face in facts for phrase in face.items() if phrase[0] != "text"})
    return torch.tensor([[face.get(name) == text for name, text in phrases] for face in facts]).float()


def crop_pairs(files: Sequence[str], rng: np.random.Generator) -> np.ndarray:
    """Return (N, 2) row numbers of two random crops of each file that has two or more."""
    rows: dict[str, list[int]] = {}
    for index, name in enumerate(files):
        rows.setdefault(name, []).append(index)
    return np.array([rng.choice(crops, 2, replace=False) for crops in rows.values() if len(crops) > 1])


def phrase_scale(features: torch.Tensor, subspace: AttributeSubspace, facts: Sequence[Mapping[str, str]]) -> float:
    """Return the length of directions between faces relative to those between captions, by least squares.

    The features are (N, D), of whole faces; of the faces' facts, phrases that are a word of an attribute count.
    """
    covariance = variance = 0.0
    for name, words in subspace.words.items():
        rows = {word: [row for row, face in enumerate(facts) if word in face.values()] for word in words}
        frequent = [word for word in words if len(rows[word]) >= 20]
        if len(frequent) < 2:
            continue
        images = torch.stack([features[rows[word]].mean(0) for word in frequent])
        texts = torch.stack([subspace.directions[name][words.index(word)] for word in frequent]).to(images)
        images, texts = images - images.mean(0), texts - texts.mean(0)
        covariance, variance = covariance + float((images * texts).sum()), variance + float(texts.square().sum())
    return max(covariance / variance, 0.1) if variance else 1.0


class IdentityRepulsion:
    """Hinge loss on the cosine between a recogniser's embeddings of the predicted and the original face.

    Counteracts a denoiser's tendency to reconstruct the person from the conditions, at the steps whose prediction
    already shows a face. Not part of any checkpoint.
    """

    def __init__(
        self,
        vae: AutoencoderKL,
        recogniser: Callable[[torch.Tensor], torch.Tensor],
        *,
        weight: float = 0.1,
        side: int = 112,
    ) -> None:
        """Take the frozen VAE of the latents, through which gradients flow, and a recogniser.

        The recogniser is differentiable, (B, 3, side, side) in -1..1 to (B, D) embeddings, and not the verifier's;
        `weight` is that of the term in the loss.
        """
        self.vae, self.recogniser = vae, recogniser
        self.weight, self.side = weight, side

    def __call__(self, predicted: torch.Tensor, latents: torch.Tensor, alphas: torch.Tensor) -> torch.Tensor:
        """Return the weighted term, a scalar.

        The clean latents, predicted and of the original, are (B, C, h, w); `alphas` (B,) are the cumulative alphas at
        the faces' steps: noisy predictions count less.
        """
        embedding = self._embed(predicted)
        with torch.no_grad():
            original = self._embed(latents)
        cosine = (embedding * original).sum(1)
        return self.weight * (alphas * (cosine - _MAX_COSINE).clamp(min=0)).mean()

    def _embed(self, latents: torch.Tensor) -> torch.Tensor:
        pixels = self.vae.decode(latents / self.vae.config.scaling_factor).sample
        edge = round(pixels.shape[-1] * (1 - _FACE_SHARE) / 2)
        face = pixels[..., edge : pixels.shape[-2] - edge, edge : pixels.shape[-1] - edge]
        face = F.interpolate(face.float(), (self.side, self.side), mode="bilinear", antialias=True)
        return F.normalize(self.recogniser(face.clamp(-1, 1)).float(), dim=1)


class Frozen:
    """Frozen model that is hidden from parameters(), checkpoints, weight averages and wrappers."""

    def __init__(self, module: nn.Module) -> None:
        self.module: Any = module.requires_grad_(False).eval()

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.module(*args, **kwargs)


class FaceDeidObjective(Objective):
    """Denoising loss conditioned on semantic map, masked picture, text and attribute tokens.

    Velocity or noise prediction; min-SNR weights (Hang et al., ICCV 2023); loss weighted to the masked region;
    conditions dropped at random for classifier-free guidance (Ho and Salimans, 2021); a colour term at the mask's rim;
    optionally, identity repulsion.
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
        rim_weight: float = 0.5,
        start_strength: float | None = None,
        repulsion: IdentityRepulsion | None = None,
        vae: AutoencoderKL | None = None,
        examples: Mapping[str, torch.Tensor] | None = None,
    ) -> None:
        """Take the models.

        Args:
            empty_ids: (1, T) token ids of the empty text.
            subspace: of the attributes that users may keep.
            train_unet: train the UNet as well, not only use it.
            snr_gamma, rim_weight: of the min-SNR weights, and of the smoothed error at the mask's rim.
            start_strength: train only this share of the denoising steps, the last ones; each predicts the photo from
                its noised composite.
            repulsion: the identity term.
            vae, examples: decoder and batch of items for contact sheets; without them there are none.
        """
        super().__init__()
        self.controlnet, self.adapter, self.scheduler = controlnet, adapter, scheduler
        self.unet = unet if train_unet else Frozen(unet)
        self.text, self.repulsion = Frozen(text_encoder), repulsion
        self.snr_gamma, self.rim_weight, self.empty_ids = snr_gamma, rim_weight, empty_ids
        self.selection, self.start_strength = RandomSelection(subspace), start_strength
        self.vae, self.examples = None if vae is None else Frozen(vae), examples

    def forward(
        self, batch: Mapping[str, torch.Tensor], phase: str, step: int
    ) -> tuple[torch.Tensor, dict[str, float]]:
        latents, noise = batch["latents"], torch.randn_like(batch["latents"])
        last = int(self.scheduler.config.num_train_timesteps * (self.start_strength or 1))
        steps = torch.randint(0, last, (len(latents),), device=latents.device)
        noisy = self.scheduler.add_noise(latents if self.start_strength is None else batch["start"], noise, steps)
        features = self.selection(batch["features"], batch["facts"], self.adapter)
        predicted = self.predict(noisy, steps, self.conditions(batch, features), self.control(batch["control"]), batch)
        alphas = self.alphas(steps)
        if self.start_strength is None:
            target = self.scheduler.get_velocity(latents, noise, steps) if self.velocity else noise
            error, rim = self.weighted_errors(predicted - target, batch["mask"])
            loss = (self.min_snr(alphas) * (error + self.rim_weight * rim)).mean()
        else:
            error, rim = self.weighted_errors(self.clean(noisy, predicted, steps) - latents, batch["mask"])
            loss = (error + self.rim_weight * rim).mean()
        figures = {"error": float(error.detach().mean()), "rim": float(rim.detach().mean())}
        if self.repulsion is not None:
            likeness = self.repulsion(self.clean(noisy, predicted, steps), latents, alphas)
            loss, figures["likeness"] = loss + likeness, float(likeness.detach())
        return loss, figures

    @property
    def velocity(self) -> bool:
        """Whether the models predict velocity (Salimans and Ho, ICLR 2022) instead of noise."""
        return bool(self.scheduler.config.prediction_type == "v_prediction")

    def alphas(self, steps: torch.Tensor) -> torch.Tensor:
        """Return (B,) cumulative alphas, the share of signal variance, at each step."""
        return self.scheduler.alphas_cumprod.to(steps.device)[steps]

    def predict(
        self,
        noisy: torch.Tensor,
        steps: torch.Tensor,
        tokens: torch.Tensor,
        control: torch.Tensor,
        batch: Mapping[str, torch.Tensor],
    ) -> torch.Tensor:
        """Return the models' (B, 4, h, w) float32 prediction for (B, 4, h, w) noisy latents at (B,) steps."""
        noisy = noisy.contiguous(memory_format=torch.channels_last)
        masked = batch["mask"], batch["masked_latents"]
        return _predict(self.unet, self.controlnet, noisy, steps, tokens, control, *masked)

    def clean(self, noisy: torch.Tensor, predicted: torch.Tensor, steps: torch.Tensor) -> torch.Tensor:
        """Return the (B, 4, h, w) clean latents that a prediction implies."""
        alphas = self.alphas(steps).view(-1, 1, 1, 1)
        scale, sigma = alphas.sqrt(), (1 - alphas).sqrt()
        return scale * noisy - sigma * predicted if self.velocity else (noisy - sigma * predicted) / scale

    def weighted_errors(self, difference: torch.Tensor, mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return (B,) squared errors weighted to the mask, and (B,) smoothed squared errors at its rim.

        The difference of prediction and target is (B, C, h, w), the mask (B, 1, h, w) in 0..1.
        """
        error = weighted_mean(difference.square(), _OUTSIDE_WEIGHT + (1 - _OUTSIDE_WEIGHT) * mask)
        return error, weighted_mean(F.avg_pool2d(difference, 5, 1, 2).square(), mask_rim(mask))

    def min_snr(self, alphas: torch.Tensor) -> torch.Tensor:
        """Return (B,) min-SNR loss weights."""
        snr = alphas / (1 - alphas).clamp(min=1e-8)
        return snr.clamp(max=self.snr_gamma) / (snr + 1 if self.velocity else snr.clamp(min=1e-8))

    def control(self, maps: torch.Tensor) -> torch.Tensor:
        """Return (B, 3, S, S) control images, some of them dropped at random."""
        control = maps.contiguous(memory_format=torch.channels_last)
        return control * (torch.rand(len(control), 1, 1, 1, device=control.device) > _DROP / 2)

    def conditions(self, batch: Mapping[str, torch.Tensor], features: torch.Tensor) -> torch.Tensor:
        """Return (B, T + N, W) text and attribute tokens; text, all or single attributes are dropped at random."""
        count, device = len(features), features.device
        has_text = torch.rand(count, 1, device=device) < _TEXT_SHARE
        ids = torch.where(has_text, batch["input_ids"], self.empty_ids.to(device))
        with torch.no_grad():
            texts = self.text(input_ids=ids).last_hidden_state
        tokens = self.adapter(features)
        every = torch.rand(count, 1, 1, device=device) < _DROP
        single = torch.rand(count, tokens.shape[1], 1, device=device) < _DROP
        tokens = torch.where(every | single, self.adapter.null(count).to(tokens), tokens)
        return torch.cat([texts.to(tokens), tokens], 1)

    def validate(self) -> np.ndarray | None:
        if self.vae is None or self.examples is None:
            return None
        features = self.examples["features"].to(self.adapter.device)
        subspace = self.selection.subspace
        grain = subspace.quantization_step(float(self.adapter.phrase_scale))
        tokens = self.adapter(subspace.project(features, tuple(subspace.words), self.adapter.centre, grain))
        texts = self.text(input_ids=self.empty_ids.to(tokens.device)).last_hidden_state
        tokens = torch.cat([texts.expand(len(tokens), -1, -1).to(tokens), tokens], 1)
        models = self.unet, self.controlnet, self.scheduler, self.vae.module
        return generation_sheet(*models, self.examples, tokens, steps=_SHEET_STEPS)

    def enable_gradient_checkpointing(self) -> None:
        super().enable_gradient_checkpointing()
        if isinstance(self.unet, Frozen):  # gradients pass through it to the ControlNet
            self.unet.module.enable_gradient_checkpointing()

    def save(self, folder: Path) -> None:
        if not isinstance(self.unet, Frozen):
            self.unet.save_pretrained(folder / "unet")
        self.controlnet.save_pretrained(folder / "controlnet")
        self.adapter.save_pretrained(folder / "attribute_adapter")
        self.scheduler.save_pretrained(folder / "scheduler")


def weighted_mean(values: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Return the (B,) mean of (B, C, h, w) values over all axes but the first, by (B, 1, h, w) weights."""
    return (values * weights).sum((1, 2, 3)) / weights.sum((1, 2, 3)).clamp(min=1e-6) / values.shape[1]


def mask_rim(mask: torch.Tensor) -> torch.Tensor:
    """Return (B, 1, h, w) weights, 1 within two cells of the edge of a mask in 0..1, else 0."""
    size = 2 * _RIM + 1
    return F.max_pool2d(mask, size, 1, _RIM) + F.max_pool2d(-mask, size, 1, _RIM)


def tile(columns: Sequence[torch.Tensor]) -> np.ndarray:
    """Return columns of (B, 3, S, S) images in -1..1 as one (H, W, 3) uint8 sheet, separated by thin white lines."""
    images = torch.stack([column.detach().float().cpu() for column in columns], 1).flatten(0, 1)
    grid = make_grid((images.clamp(-1, 1) + 1) * 127.5, nrow=len(columns), padding=2, pad_value=255)
    return grid.round().byte().permute(1, 2, 0).contiguous().numpy()


@torch.no_grad()
def generation_sheet(
    unet: Callable[..., Any],
    controlnet: ControlNetModel,
    scheduler: SchedulerMixin,
    vae: AutoencoderKL,
    batch: Mapping[str, torch.Tensor],
    tokens: torch.Tensor,
    *,
    steps: int,
    seed: int = 0,
) -> np.ndarray:
    """Return a sheet of semantic map, erased face, generated face and original, the last three decoded.

    Samples without guidance from the seed's noise; no other random state is read or changed.

    Args:
        unet: inpainting UNet of 9 channels, or a callable with its signature.
        scheduler: of the training; a copy of it samples.
        vae: decoder; ``batch`` holds its scaled latents.
        batch: ``latents`` and ``masked_latents`` (B, 4, h, w), ``mask`` (B, 1, h, w), ``control`` (B, 3, S, S) in 0..1.
        tokens: (B, T, W) text and attribute tokens.
        steps: denoising steps.
    """
    device = controlnet.device
    mask, masked, control = (batch[name].to(device) for name in ("mask", "masked_latents", "control"))
    sampler = type(scheduler).from_config(scheduler.config)
    sampler.set_timesteps(steps, device=device)
    generator = torch.Generator().manual_seed(seed)
    latents = torch.randn(masked.shape, generator=generator).to(masked) * sampler.init_noise_sigma
    for time in sampler.timesteps:
        noisy = sampler.scale_model_input(latents, time)
        predicted = _predict(unet, controlnet, noisy, time, tokens, control, mask, masked)
        latents = sampler.step(predicted, time, latents, return_dict=False)[0]
    columns = (column.to(vae.device, vae.dtype) for column in (masked, latents, batch["latents"]))
    decoded = [vae.decode(column / vae.config.scaling_factor).sample for column in columns]
    return tile([control * 2 - 1, *decoded])


def _predict(
    unet: Callable[..., Any],
    controlnet: ControlNetModel,
    noisy: torch.Tensor,
    step: torch.Tensor,
    tokens: torch.Tensor,
    control: torch.Tensor,
    mask: torch.Tensor,
    masked: torch.Tensor,
) -> torch.Tensor:
    down, middle = controlnet(noisy, step, tokens, control, return_dict=False)
    residuals = {"down_block_additional_residuals": down, "mid_block_additional_residual": middle}
    return unet(torch.cat([noisy, mask, masked], 1), step, tokens, **residuals).sample.float()
