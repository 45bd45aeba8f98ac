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
from transformers import CLIPImageProcessor, CLIPTextModel, CLIPTokenizer, CLIPVisionModelWithProjection

from ..attributes.encoder import encode_attributes, labels_tensor
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

    _optional_components = ["safety_checker", "feature_extractor", "image_encoder", "attribute_adapter"]  # noqa: RUF012
    model_cpu_offload_seq = "text_encoder->image_encoder->attribute_adapter->unet->vae"

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
        requires_safety_checker: bool = False,
        default_steps: int = 20,
        default_guidance: float = 5.0,
        default_sharpening: float = 0.0,
    ) -> None:
        super().__init__(
            vae, text_encoder, tokenizer, unet, controlnet, scheduler, safety_checker, feature_extractor, image_encoder,
            requires_safety_checker,
        )  # fmt: skip
        self.register_modules(attribute_adapter=attribute_adapter)
        self.register_to_config(
            default_steps=default_steps, default_guidance=default_guidance, default_sharpening=default_sharpening
        )

    @property
    def crop_size(self) -> int:
        """Side of the square face crops that the model was trained on, in pixels."""
        return int(self.unet.config.sample_size) * self.vae_scale_factor

    @torch.no_grad()
    def encode_attributes(self, crops: torch.Tensor, semantic_maps: Sequence[np.ndarray]) -> torch.Tensor | None:
        """Attribute features of original face crops.

        Args:
            crops: (B, 3, H, W) in 0..1.
            semantic_maps: B label maps, (H, W) uint8 each.

        Returns:
            (B, N, D) unit features, or None when the pipeline has no image encoder or no adapter.
        """
        if self.image_encoder is None or self.attribute_adapter is None:
            return None
        device = self._execution_device
        images = crops.to(device) * 2 - 1
        return encode_attributes(self.image_encoder, images, labels_tensor(list(semantic_maps)).to(device))

    @torch.no_grad()
    def __call__(
        self,
        image: torch.Tensor | Image.Image | list[Image.Image],
        mask_image: torch.Tensor | Image.Image | list[Image.Image],
        control_image: torch.Tensor | Image.Image | list[Image.Image],
        attribute_features: torch.Tensor | None = None,
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
        if attribute_features is not None:
            counts["attribute_features"] = len(attribute_features)
        if len(set(counts.values())) > 1:
            raise ValueError(f"expected as many of each, got {', '.join(f'{v} {k}' for k, v in counts.items())}")
        erased = torch.where(mask_t >= 0.5, torch.full_like(image_t, ERASED), image_t)
        guidance = float(self.config.default_guidance if guidance_scale is None else guidance_scale)
        positive, negative = self._embed(prompt, negative_prompt, attribute_features, batch, guidance > 1)
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
        prompt: str | list[str],
        negative_prompt: str | list[str],
        features: torch.Tensor | None,
        batch: int,
        guided: bool,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Text embeddings with the attribute tokens appended: (B, T + N, W); negative only if guided."""
        device = self._execution_device
        prompts, negatives = ([p] * batch if isinstance(p, str) else p for p in (prompt, negative_prompt))
        positive, negative = self.encode_prompt(prompts, device, 1, guided, negatives)
        if self.attribute_adapter is None:
            if features is not None:
                raise ValueError("attribute_features: this pipeline has no attribute_adapter to turn them into tokens")
            return positive, negative
        null = self.attribute_adapter.null(batch).to(positive)
        tokens = null
        if features is not None:
            tokens = self.attribute_adapter(features.to(device, self.attribute_adapter.dtype)).to(positive)
        positive = torch.cat([positive, tokens], 1)
        return positive, torch.cat([negative, null], 1) if guided else None

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
