"""FaceDeidPipeline: inpaint face crops from semantic maps and attribute tokens, and from nothing else."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL, ControlNetModel, StableDiffusionControlNetInpaintPipeline, UNet2DConditionModel
from diffusers.pipelines.stable_diffusion.pipeline_output import StableDiffusionPipelineOutput
from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker
from diffusers.schedulers import KarrasDiffusionSchedulers
from PIL import Image
from transformers import (
    CLIPImageProcessor,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    CLIPVisionModelWithProjection,
)

from ..attributes.encoder import encode_attributes, labels_tensor
from ..attributes.phrases import embed_phrases
from ..attributes.subspace import AttributeSubspace
from ..attributes.vocabulary import VOCABULARY
from ..attributes.zero_shot import zero_shot_tokens
from ..errors import DeidError
from ..models.attribute_adapter import AttributeAdapter
from ..models.face_encoder import FaceEncoder
from .portable import write_portable

ERASED = 0.5
"""What the generator sees in a face's place, in 0..1: mid-grey, as SD's inpainting models were trained with."""


class FaceDeidPipeline(StableDiffusionControlNetInpaintPipeline):
    """Stable Diffusion inpainting with a semantic-map ControlNet and attribute tokens.

    All of a call's crops are denoised in one batch. The masked pixels are erased before the VAE sees them and sampling
    starts from pure noise, so that the result does not depend on them.
    """

    _optional_components = [  # noqa: RUF012
        "safety_checker", "feature_extractor", "image_encoder", "attribute_adapter", "phrase_encoder",
    ]  # fmt: skip
    model_cpu_offload_seq = "image_encoder->phrase_encoder->text_encoder->attribute_adapter->unet->vae"

    def __init__(
        self,
        vae: AutoencoderKL,
        text_encoder: CLIPTextModel,
        tokenizer: CLIPTokenizer,
        unet: UNet2DConditionModel,
        controlnet: ControlNetModel,
        scheduler: KarrasDiffusionSchedulers,
        safety_checker: StableDiffusionSafetyChecker,
        feature_extractor: CLIPImageProcessor,
        image_encoder: CLIPVisionModelWithProjection | FaceEncoder,
        attribute_adapter: AttributeAdapter,
        phrase_encoder: CLIPTextModelWithProjection,
        requires_safety_checker: bool = False,
        default_steps: int = 20,
        default_guidance: float = 5.0,
        default_sharpening: float = 0.0,
    ) -> None:
        super().__init__(
            vae, text_encoder, tokenizer, unet, controlnet, scheduler, safety_checker, feature_extractor, image_encoder,
            requires_safety_checker,
        )  # fmt: skip
        self.register_modules(attribute_adapter=attribute_adapter, phrase_encoder=phrase_encoder)
        self._subspaces: dict[tuple[object, ...], AttributeSubspace] = {}
        self.register_to_config(
            default_steps=default_steps, default_guidance=default_guidance, default_sharpening=default_sharpening
        )

    @property
    def crop_size(self) -> int:
        """Side of the square face crops that the model was trained on, in pixels."""
        return int(self.unet.config.sample_size) * self.vae_scale_factor

    @property
    def reads_attributes(self) -> bool:
        """Whether the pipeline has an image encoder, and an adapter or a phrase encoder to make tokens of its features.

        Without an adapter, which is trained, tokens are made by `zero_shot_tokens`.
        """
        has_tokens = self.attribute_adapter is not None or self._phrase_model() is not None
        return self.image_encoder is not None and has_tokens

    @torch.no_grad()
    def encode_attributes(self, crops: torch.Tensor, semantic_maps: Sequence[np.ndarray]) -> torch.Tensor | None:
        """Attribute features of original face crops.

        Args:
            crops: (B, 3, H, W) in 0..1.
            semantic_maps: B label maps, (H, W) uint8 each.

        Returns:
            (B, N, D) unit features, or None where ``reads_attributes`` is false.
        """
        if not self.reads_attributes:
            return None
        device = self._execution_device
        images = crops.to(device) * 2 - 1
        return encode_attributes(self.image_encoder, images, labels_tensor(list(semantic_maps)).to(device))

    @property
    def look_dim(self) -> int:
        """Numbers of a look, which says who of all the people with the same attributes is painted; 0 for none."""
        return 0 if self.attribute_adapter is None else int(self.attribute_adapter.config.look_dim)

    def embed_phrases(self, texts: Sequence[str]) -> torch.Tensor:
        """(K, D) unit vectors of K captions, in the space of the attribute features.

        Raises:
            DeidError: when the pipeline has no text side of its image encoder.
        """
        encoder = self._phrase_model()
        if encoder is None:
            raise DeidError(
                "this model cannot read words: load it with phrase_encoder=, the text side of its image_encoder "
                "(CLIPTextModelWithProjection.from_pretrained of the same CLIP)"
            )
        return embed_phrases(encoder, self.tokenizer, list(texts))

    def subspace(self, phrases: Sequence[str] = ()) -> AttributeSubspace:
        """The subspaces of the built-in attributes and, each its own attribute, of more phrases; computed once.

        Raises:
            DeidError: as ``embed_phrases``.
            ValueError: for a phrase that the encoder does not tell from "a person".
        """
        key = (id(self._phrase_model()), *phrases)
        if key not in self._subspaces:
            words = {**VOCABULARY, **{phrase: (phrase,) for phrase in phrases}}
            self._subspaces[key] = AttributeSubspace.from_phrases(words, self.embed_phrases)
        return self._subspaces[key]

    def _phrase_model(self) -> CLIPTextModel | CLIPTextModelWithProjection | None:
        """What embeds phrases. A FaceEncoder was trained with the pipeline's own text encoder.

        Beside a CLIP vision tower the own text encoder would not do: Stable Diffusion's is as wide as the joint space,
        but lacks the projection into it.
        """
        if self.phrase_encoder is not None:
            return self.phrase_encoder
        own, encoder = self.text_encoder, self.image_encoder
        fits = isinstance(encoder, FaceEncoder) and encoder.config.projection_dim == own.config.hidden_size
        return own if fits else None

    @torch.no_grad()
    def __call__(
        self,
        image: torch.Tensor | Image.Image | list[Image.Image],
        mask_image: torch.Tensor | Image.Image | list[Image.Image],
        control_image: torch.Tensor | Image.Image | list[Image.Image],
        attribute_features: torch.Tensor | None = None,
        looks: torch.Tensor | None = None,
        attribute_names: Sequence[str] | None = None,
        prompt: str | list[str] = "",
        negative_prompt: str | list[str] = "",
        num_inference_steps: int | None = None,
        guidance_scale: float | None = None,
        controlnet_conditioning_scale: float = 1.0,
        generator: torch.Generator | list[torch.Generator] | None = None,
        latents: torch.Tensor | None = None,
        output_type: str = "pil",
        return_dict: bool = True,
        callback_on_step_end: Callable[..., Any] | None = None,
        cross_attention_kwargs: dict[str, Any] | None = None,
    ) -> StableDiffusionPipelineOutput | tuple[Any, Any]:
        """Generate a face in every crop.

        Args:
            image: B face crops; tensors are (B, 3, H, W) in 0..1. What the mask covers is never read.
            mask_image: B masks, (B, 1, H, W) in 0..1; 0.5 and more is replaced.
            control_image: B coloured semantic maps, (B, 3, H, W) in 0..1.
            attribute_features: (B, N, D) from ``encode_attributes``; None keeps no attribute but those of the map.
            looks: (B, look_dim) standard normal numbers: which of the people with these attributes; None is anybody.
            attribute_names: what the features tell of, built-in names and phrases, for a pipeline without adapter; None
                is all built-in ones.
            prompt, negative_prompt: text, one for all crops or one each.
            num_inference_steps: denoising steps, the model's own default when None.
            guidance_scale: classifier-free guidance, 1 for none, the model's own default when None.
            controlnet_conditioning_scale: how strictly the map is followed.
            generator: one for each crop gives every face the same result whatever the batch it is in.
            latents: (B, 4, h, w) start noise, drawn from the generator when None.
            output_type: "pil", "np", "pt" or "latent".
            callback_on_step_end: as in diffusers.
            cross_attention_kwargs: as in diffusers.

        Raises:
            ValueError: when the numbers of crops, masks, maps or features differ, or there is nothing to replace.
        """
        image_t = self.image_processor.preprocess(image) / 2 + 0.5
        mask_t = self.mask_processor.preprocess(mask_image)
        control_t = self.control_image_processor.preprocess(control_image)
        batch = len(image_t)
        counts = {"image": batch, "mask_image": len(mask_t), "control_image": len(control_t)}
        given = {"attribute_features": attribute_features, "looks": looks}
        counts |= {name: len(value) for name, value in given.items() if value is not None}
        if len(set(counts.values())) > 1:
            raise ValueError(f"expected as many of each, got {', '.join(f'{v} {k}' for k, v in counts.items())}")
        erased = torch.where(mask_t >= 0.5, torch.full_like(image_t, ERASED), image_t)
        guidance = float(self.config.default_guidance if guidance_scale is None else guidance_scale)
        prompts, negatives = ([p] * batch if isinstance(p, str) else p for p in (prompt, negative_prompt))
        positive, negative = self._embed(prompts, negatives, attribute_features, looks, attribute_names, guidance > 1)
        return super().__call__(
            prompt_embeds=positive,
            negative_prompt_embeds=negative,
            image=erased,
            mask_image=mask_t,
            control_image=control_t,
            height=erased.shape[-2],
            width=erased.shape[-1],
            strength=1.0,
            num_inference_steps=num_inference_steps or self.config.default_steps,
            guidance_scale=guidance,
            controlnet_conditioning_scale=float(controlnet_conditioning_scale),
            generator=generator,
            latents=latents,
            output_type=output_type,
            return_dict=return_dict,
            callback_on_step_end=callback_on_step_end,
            cross_attention_kwargs=cross_attention_kwargs,
        )

    def _embed(
        self,
        prompt: list[str],
        negative_prompt: list[str],
        features: torch.Tensor | None,
        looks: torch.Tensor | None,
        names: Sequence[str] | None,
        guided: bool,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Text embeddings with the attributes' and looks' tokens appended: (B, T + N, W); negative only if guided."""
        device = self._execution_device
        positive, negative = self.encode_prompt(prompt, device, 1, guided, negative_prompt)
        tokens, null = self._tokens(features, looks, names, len(positive))
        if tokens is None or null is None:
            return positive, negative
        positive = torch.cat([positive, tokens.to(positive)], 1)
        return positive, torch.cat([negative, null.to(positive)], 1) if guided else None

    def _tokens(
        self, features: torch.Tensor | None, looks: torch.Tensor | None, names: Sequence[str] | None, batch: int
    ) -> tuple[torch.Tensor, torch.Tensor] | tuple[None, None]:
        """(B, N, W) tokens of attributes and looks, and as many that say nothing; None and None for no tokens."""
        device, adapter = self._execution_device, self.attribute_adapter
        if adapter is None:
            if features is None and looks is None:
                return None, None
            if features is None or looks is not None or not self.reads_attributes:
                raise ValueError("attribute_features, looks: this pipeline has no attribute_adapter to make tokens of")
            named = tuple(VOCABULARY if names is None else names)
            subspace = self.subspace([name for name in named if name not in VOCABULARY])
            if not named:
                return None, None
            told, untold = zero_shot_tokens(features.to(device).float(), subspace, named, self._embed_captions)
            return told, untold.expand(batch, -1, -1)
        null = adapter.null(batch)
        if features is None and looks is None:
            return null, null
        if features is None:
            features = adapter.centre.expand(batch, -1, -1)  # nobody in particular
        seen = None if looks is None else looks.to(device, adapter.dtype)
        return adapter(features.to(device, adapter.dtype), seen), null

    def _embed_captions(self, texts: list[str]) -> tuple[torch.Tensor, int]:
        """(K, T, W) embeddings of captions by the generator's text encoder, and the longest one's length in tokens."""
        longest = max(len(ids) for ids in self.tokenizer(texts, truncation=True).input_ids)
        return self.encode_prompt(texts, self._execution_device, 1, False)[0], longest

    def save_pretrained(
        self,
        save_directory: str | os.PathLike[str],
        safe_serialization: bool = True,
        variant: str | None = None,
        max_shard_size: int | str | None = None,
    ) -> None:
        """Write a folder that ``DiffusionPipeline.from_pretrained`` loads from a disk or a hub, shims included."""
        super().save_pretrained(
            save_directory, safe_serialization=safe_serialization, variant=variant, max_shard_size=max_shard_size
        )
        write_portable(save_directory)
