"""FaceDeidPipeline: inpainting of face crops, conditioned on semantic maps and attribute tokens alone."""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Union

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

from ..attributes.encoding import embed_phrases, encode_attributes, labels_tensor, zero_shot_tokens
from ..attributes.subspace import AttributeSubspace
from ..attributes.vocabulary import VOCABULARY
from ..errors import DeidError
from ..faces.semantic_map import CONTROLS
from ..models.attribute_adapter import AttributeAdapter
from ..models.face_encoder import FaceEncoder
from ..models.identity_model import IdentityModel
from ..results import FaceRecord
from .inputs import check_counts, check_positive, join, match_precision, resize_area, texts_for
from .publishing import use_installed_classes, write_portable

if TYPE_CHECKING:
    from ..anonymizer import Anonymizer
    from ..options import Options


ERASED = 0.5
"""Value of masked pixels in the generator's input, 0..1: mid-grey, as in the training of SD's inpainting models."""


@dataclass
class FaceDeidPipelineOutput(StableDiffusionPipelineOutput):
    """Output of `FaceDeidPipeline`.

    Attributes:
        images: PIL images, or the type of ``output_type``.
        records: for photos, a tuple of `FaceRecord` per photo; None for crops.
    """

    records: list[tuple[FaceRecord, ...]] | None = None


class FaceDeidPipeline(StableDiffusionControlNetInpaintPipeline):
    """Replace the faces of photos, or generate faces in prepared crops.

    Stable Diffusion inpainting with a semantic-map ControlNet, attribute tokens and an identity model. Given photos
    alone, a call detects, analyses, generates, verifies and composites every face, as `Anonymizer` does. Given crops,
    masks and control images, it denoises them in one batch. The masked pixels are erased before the VAE
    sees them, and sampling starts from noise or a composite, so that the result does not depend on them.

    >>> pipe = FaceDeidPipeline.from_pretrained(BUILTIN)  # doctest: +SKIP
    >>> output = pipe(image=photo)  # doctest: +SKIP
    >>> output.images[0], output.records[0]  # doctest: +SKIP
    """

    _optional_components = [  # noqa: RUF012
        "safety_checker", "feature_extractor", "image_encoder", "attribute_adapter", "phrase_encoder", "identity_model",
    ]  # fmt: skip
    model_cpu_offload_seq = "image_encoder->phrase_encoder->text_encoder->attribute_adapter->unet->vae"

    def __init__(  # diffusers before 0.37 reads these annotations as objects: no postponed evaluation in this module
        self,
        vae: AutoencoderKL,
        text_encoder: CLIPTextModel,
        tokenizer: CLIPTokenizer,
        unet: UNet2DConditionModel,
        controlnet: ControlNetModel,
        scheduler: KarrasDiffusionSchedulers,
        safety_checker: StableDiffusionSafetyChecker,
        feature_extractor: CLIPImageProcessor,
        image_encoder: Union[CLIPVisionModelWithProjection, FaceEncoder],  # noqa: UP007, diffusers before 0.37 knows no |
        attribute_adapter: AttributeAdapter,
        phrase_encoder: CLIPTextModelWithProjection,
        identity_model: IdentityModel,
        requires_safety_checker: bool = False,
        default_steps: int = 20,
        default_guidance: float = 5.0,
        default_strength: float = 0.6,
        control: str = "semantic_map",
    ) -> None:
        if control not in CONTROLS:
            raise ValueError(f"control: expected one of {', '.join(CONTROLS)}, got {control!r}")
        for encoder in (text_encoder, phrase_encoder, image_encoder):
            match_precision(encoder, unet)
        super().__init__(
            vae, text_encoder, tokenizer, unet, controlnet, scheduler, safety_checker, feature_extractor, image_encoder,
            requires_safety_checker,
        )  # fmt: skip
        self.register_modules(
            attribute_adapter=attribute_adapter, phrase_encoder=phrase_encoder, identity_model=identity_model
        )
        self._anonymizer: Anonymizer | None = None  # created for the first photo
        self._subspaces: dict[tuple[object, ...], AttributeSubspace] = {}
        self.register_to_config(
            default_steps=default_steps,
            default_guidance=default_guidance,
            default_strength=default_strength,
            control=control,
        )

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | os.PathLike[str], **kwargs: Any) -> Any:
        """Load a pipeline as diffusers does; "builtin" is the built-in model.

        A local folder is checked first, and no code in it is run.

        Args:
            pretrained_model_name_or_path: "builtin", a folder or a hub id.
            kwargs: as in diffusers. With any but ``dtype`` (or ``torch_dtype``), a folder is not checked, and
                ``trust_remote_code`` decides about its code.
        """
        from .loading import BUILTIN, load_pipeline

        source = str(pretrained_model_name_or_path)
        folder = BUILTIN if source == "builtin" else Path(source)
        other_options = kwargs.keys() - {"dtype", "torch_dtype", "trust_remote_code"}
        if cls is FaceDeidPipeline and folder.is_dir() and not other_options:
            dtype = kwargs.get("dtype", kwargs.get("torch_dtype")) or torch.float32
            return load_pipeline(str(folder), dtype)
        return super().from_pretrained(str(folder) if folder.is_dir() else source, **kwargs)

    @classmethod
    def load_config(cls, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Read ``model_index.json``, with the installed classes in place of the shims that ``publish`` writes."""
        return use_installed_classes(super().load_config(*args, **kwargs))

    @property
    def crop_size(self) -> int:
        """Side of the square face crops of the model's training, in pixels."""
        return int(self.unet.config.sample_size) * self.vae_scale_factor

    @property
    def reads_attributes(self) -> bool:
        """True with an image encoder, and an adapter or a phrase encoder that turns its features into tokens.

        Without an adapter, which is trained, `zero_shot_tokens` makes the tokens.
        """
        has_tokens = self.attribute_adapter is not None or self._phrase_model() is not None
        return self.image_encoder is not None and has_tokens

    @torch.no_grad()
    def encode_attributes(
        self,
        crops: torch.Tensor,
        semantic_maps: Sequence[np.ndarray],
        meshes: Sequence[np.ndarray] | None = None,
    ) -> torch.Tensor | None:
        """Return the attribute features of original face crops.

        Args:
            crops: (B, 3, H, W) in 0..1.
            semantic_maps: B label maps, (H, W) uint8 each.
            meshes: B meshes, (478, 2) crop pixels each; the built-in model's encoder needs them.

        Returns:
            (B, N, D) unit features, or None where ``reads_attributes`` is false.

        Raises:
            ValueError: when the encoder needs meshes.
        """
        if not self.reads_attributes:
            return None
        device = self._execution_device
        images = crops.to(device) * 2 - 1
        labels = labels_tensor(list(semantic_maps)).to(device)
        points = None if meshes is None else torch.from_numpy(np.stack(meshes).astype(np.float32)).to(device)
        return encode_attributes(self.image_encoder, images, labels, points)

    def embed_phrases(self, texts: Sequence[str]) -> torch.Tensor:
        """Return (K, D) unit vectors of K captions, in the space of the attribute features.

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
        """Return the subspaces of the built-in attributes, and of more phrases as attributes of their own; cached.

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
        """Return the phrase encoder, or the text encoder if the image encoder was trained with it; None if neither.

        Stable Diffusion's text encoder does not fit a CLIP vision tower: it is as wide as the joint space, but lacks
        the projection into it.
        """
        if self.phrase_encoder is not None:
            return self.phrase_encoder
        own, encoder = self.text_encoder, self.image_encoder
        fits = isinstance(encoder, FaceEncoder) and encoder.config.projection_dim == own.config.hidden_size
        return own if fits else None

    @torch.no_grad()
    def __call__(
        self,
        prompt: str | list[str] | None = None,
        image: torch.Tensor | Image.Image | list[Image.Image] | None = None,
        mask_image: torch.Tensor | Image.Image | list[Image.Image] | None = None,
        control_image: torch.Tensor | Image.Image | list[Image.Image] | None = None,
        height: int | None = None,
        width: int | None = None,
        padding_mask_crop: None = None,
        strength: float | None = None,
        num_inference_steps: int | None = None,
        guidance_scale: float | None = None,
        negative_prompt: str | list[str] | None = None,
        num_images_per_prompt: int = 1,
        eta: float = 0.0,
        generator: torch.Generator | list[torch.Generator] | None = None,
        latents: torch.Tensor | None = None,
        prompt_embeds: torch.Tensor | None = None,
        negative_prompt_embeds: torch.Tensor | None = None,
        ip_adapter_image: Image.Image | list[Image.Image] | None = None,
        ip_adapter_image_embeds: list[torch.Tensor] | None = None,
        output_type: str = "pil",
        return_dict: bool = True,
        cross_attention_kwargs: dict[str, Any] | None = None,
        controlnet_conditioning_scale: float = 1.0,
        guess_mode: bool = False,
        control_guidance_start: float = 0.0,
        control_guidance_end: float = 1.0,
        clip_skip: int | None = None,
        callback_on_step_end: Callable[..., Any] | None = None,
        callback_on_step_end_tensor_inputs: Sequence[str] = ("latents",),
        attribute_features: torch.Tensor | None = None,
        attribute_names: Sequence[str] | None = None,
        start_image: torch.Tensor | None = None,
        options: "Options | None" = None,
    ) -> FaceDeidPipelineOutput | StableDiffusionPipelineOutput | tuple[Any, Any]:
        """Replace the faces of photos or, with masks and control images, generate a face in every crop.

        All arguments but the last four are those of ``StableDiffusionControlNetInpaintPipeline``, in its order. For
        photos, ``prompt``, ``num_inference_steps``, ``generator`` (its seed), ``return_dict`` and ``options`` count.

        Args:
            prompt, negative_prompt: text, one for all crops or one each.
            image: PIL photos of any size; or B face crops, tensors (B, 3, H, W) in 0..1, whose masked pixels are not
                read.
            mask_image: B masks, (B, 1, H, W) in 0..1; 0.5 and more is replaced.
            control_image: B control images, (B, 3, H, W) in 0..1, as ``draw_control`` makes them.
            height, width: size of the results in pixels; the size of the crops when None.
            padding_mask_crop: must be None: ``Anonymizer`` cuts crops.
            strength: share of the denoising steps that are run, 0 to 1; the model's default when None. Under 1 only
                with a ``start_image``, as faces otherwise come from pure noise; 0 returns the ``start_image``.
            num_inference_steps: denoising steps; the model's default when None.
            guidance_scale: classifier-free guidance, 1 for none; the model's default when None.
            num_images_per_prompt: N results per crop, one after the other.
            generator: one per result makes each result independent of its batch.
            latents: (B * N, 4, h, w) start noise, drawn from the generator when None.
            prompt_embeds, negative_prompt_embeds: (B, T, W) instead of texts.
            ip_adapter_image: if ``image_encoder`` is the IP-Adapter's; otherwise use the next argument.
            ip_adapter_image_embeds: as in diffusers, one tensor per loaded IP-Adapter.
            output_type: "pil", "np", "pt" or "latent".
            controlnet_conditioning_scale: weight of the ControlNet.
            eta, return_dict, cross_attention_kwargs, guess_mode, control_guidance_start, control_guidance_end,
                clip_skip, callback_on_step_end, callback_on_step_end_tensor_inputs: as in diffusers.
            attribute_features: (B, N, D) from ``encode_attributes``; None keeps only the attributes of the map.
            attribute_names: names of the attributes in the features, built-in ones and phrases, for a pipeline without
                adapter; all built-in ones when None.
            start_image: B composites, (B, 3, H, W) in 0..1, from whose masked pixels the last steps start (SDEdit; Meng
                et al., ICLR 2022). Never the original: it would show in the result. With one, ``image`` may be larger
                than ``crop_size``: it is denoised at that size, and the difference is added to the composite, which
                preserves fine detail.
            options: options for photos, see `Options`.

        Raises:
            ValueError: when the numbers of crops, masks, maps, texts or features differ, or an argument is not
                supported.
        """
        if image is not None and mask_image is None and control_image is None:
            return self._replace_faces(image, options, prompt, num_inference_steps, generator, return_dict)
        if image is None or mask_image is None or control_image is None:
            raise ValueError("expected image alone (photos), or image, mask_image and control_image (crops)")
        if strength is None:
            strength = 1.0 if start_image is None else float(self.config.default_strength)
        self._check_supported(strength, start_image, padding_mask_crop, ip_adapter_image)
        steps = self.config.default_steps if num_inference_steps is None else num_inference_steps
        check_positive(num_inference_steps=steps, num_images_per_prompt=num_images_per_prompt)
        image_t = self.image_processor.preprocess(image, height, width) / 2 + 0.5
        height, width = image_t.shape[-2:]
        mask_t = self.mask_processor.preprocess(mask_image, height, width)
        control_t = self.control_image_processor.preprocess(control_image, height, width)
        batch = len(image_t)
        prompts = texts_for(prompt, prompt_embeds, batch)
        negatives = texts_for(negative_prompt, negative_prompt_embeds, batch)
        check_counts(
            image=image_t,
            mask_image=mask_t,
            control_image=control_t,
            prompt=prompts,
            negative_prompt=negatives,
            prompt_embeds=prompt_embeds,
            negative_prompt_embeds=negative_prompt_embeds,
            attribute_features=attribute_features,
            start_image=start_image,
        )
        composite = None
        if start_image is not None:
            start_t = self.image_processor.preprocess(start_image, height, width) / 2 + 0.5
            composite = torch.where(mask_t >= 0.5, start_t.to(image_t), image_t)
            if strength == 0:
                if callback_on_step_end is not None:  # it may end the call
                    self._num_timesteps = 1
                    callback_on_step_end(self, 0, 0, {})
                return self._wrap(composite, output_type, return_dict)
            steps = max(steps, int(np.ceil(1 / strength)))  # at least one step is run
            height = width = self.crop_size
            image_t, mask_t, control_t = (resize_area(part, height) for part in (image_t, mask_t, control_t))
        # The base class erases the masked pixels with the same grey, except in the image its steps start from.
        start = torch.full_like(image_t, ERASED) if composite is None else resize_area(composite, height)
        start = torch.where(mask_t >= 0.5, start, image_t)
        guidance = float(self.config.default_guidance if guidance_scale is None else guidance_scale)
        device = self._execution_device  # slow: it walks through every module
        if prompts and negatives and len({*prompts}) == len({*negatives}) == 1:
            prompts, negatives = prompts[:1], negatives[:1]  # equal for all crops: encoded once
        positive, negative = self.encode_prompt(
            prompts,
            device,
            1,
            guidance > 1,
            negatives,
            prompt_embeds,
            negative_prompt_embeds,
            lora_scale=(cross_attention_kwargs or {}).get("scale"),
            clip_skip=clip_skip,
        )
        positive = positive.expand(batch, -1, -1)
        negative = negative.expand(batch, -1, -1) if guidance > 1 else None
        tokens, null_tokens = self._tokens(attribute_features, attribute_names, batch, device)
        if tokens is not None and null_tokens is not None:
            positive = torch.cat([positive, tokens.to(positive)], 1)
            negative = None if negative is None else torch.cat([negative, null_tokens.to(negative)], 1)

        def repeated(values: torch.Tensor | None) -> torch.Tensor | None:  # diffusers repeats texts in another order
            return None if values is None else values.repeat_interleave(num_images_per_prompt, 0)

        result = super().__call__(
            prompt_embeds=repeated(positive),
            negative_prompt_embeds=repeated(negative),
            image=repeated(start),
            mask_image=repeated(mask_t),
            control_image=repeated(control_t),
            height=height,
            width=width,
            strength=strength,
            num_inference_steps=steps,
            guidance_scale=guidance,
            eta=eta,
            generator=generator,
            latents=latents,
            ip_adapter_image=ip_adapter_image,
            ip_adapter_image_embeds=ip_adapter_image_embeds,
            output_type=output_type if composite is None else "pt",
            return_dict=return_dict if composite is None else False,
            cross_attention_kwargs=cross_attention_kwargs,
            controlnet_conditioning_scale=float(controlnet_conditioning_scale),
            guess_mode=guess_mode,
            control_guidance_start=control_guidance_start,
            control_guidance_end=control_guidance_end,
            callback_on_step_end=callback_on_step_end,
            callback_on_step_end_tensor_inputs=list(callback_on_step_end_tensor_inputs),
        )
        if composite is None:
            return result
        composites, masks = (part.repeat_interleave(num_images_per_prompt, 0) for part in (composite, mask_t))
        return self._wrap(join(composites, result[0], masks), output_type, return_dict)

    def _replace_faces(
        self,
        photos: Any,
        options: "Options | None",
        prompt: str | list[str] | None,
        steps: int | None,
        generator: torch.Generator | list[torch.Generator] | None,
        return_dict: bool,
    ) -> FaceDeidPipelineOutput | tuple[Any, Any]:
        """Run the whole line on photos."""
        from ..anonymizer import Anonymizer
        from ..options import Options

        images = [photos] if isinstance(photos, Image.Image) else list(photos)
        if not images or not all(isinstance(image, Image.Image) for image in images):
            raise ValueError("image: expected PIL photos, or crops together with mask_image and control_image")
        overrides: dict[str, Any] = {"prompt": prompt, "num_inference_steps": steps}
        if isinstance(generator, torch.Generator):
            overrides["seed"] = generator.initial_seed() % 2**63
        options = replace(options or Options(), **{name: v for name, v in overrides.items() if v is not None})
        if self._anonymizer is None:
            self._anonymizer = Anonymizer(self)
        if isinstance(generator, list):
            seeds = [part.initial_seed() % 2**63 for part in generator]
            results = [
                self._anonymizer(image, replace(options, seed=seed)) for image, seed in zip(images, seeds, strict=True)
            ]
        else:
            results = [self._anonymizer(image, options) for image in images]
        outputs, records = [result.image for result in results], [result.faces for result in results]
        return FaceDeidPipelineOutput(outputs, None, records) if return_dict else (outputs, records)

    def _wrap(
        self, pictures: torch.Tensor, output_type: str, return_dict: bool
    ) -> StableDiffusionPipelineOutput | tuple[Any, Any]:
        """Return (B, 3, H, W) pictures in 0..1 as diffusers' pipelines return theirs."""
        images = self.image_processor.postprocess(pictures.float() * 2 - 1, output_type)
        return StableDiffusionPipelineOutput(images, None) if return_dict else (images, None)

    def unload_ip_adapter(self) -> None:
        """Unload it as diffusers does, but keep the image encoder, which encodes attributes."""
        parts = {"image_encoder": self.image_encoder, "feature_extractor": self.feature_extractor}
        super().unload_ip_adapter()
        self.register_modules(**parts)

    def _check_supported(
        self, strength: float, start_image: object, padding_mask_crop: object, ip_adapter_image: object
    ) -> None:
        """Raise ValueError for arguments that the base class supports and this class must not."""
        if strength != 1 and start_image is None:
            raise ValueError(
                f"strength: must be 1 without a start_image, got {strength}: add a start_image or omit strength"
            )
        if not 0 <= strength <= 1:
            raise ValueError(f"strength: expected 0 to 1, got {strength}")
        if padding_mask_crop is not None:
            raise ValueError("padding_mask_crop: must be None: pass crops, or photos to deid_diffusion.Anonymizer")
        if ip_adapter_image is not None and self.reads_attributes:
            raise ValueError(
                "ip_adapter_image: the image_encoder of this pipeline encodes attributes and is not the IP-Adapter's: "
                "pass ip_adapter_image_embeds"
            )

    def _tokens(
        self, features: torch.Tensor | None, names: Sequence[str] | None, batch: int, device: torch.device
    ) -> tuple[torch.Tensor, torch.Tensor] | tuple[None, None]:
        """Return (B, N, W) attribute tokens and null tokens; None and None for no tokens."""
        adapter = self.attribute_adapter
        if adapter is None:
            if features is None:
                return None, None
            if not self.reads_attributes:
                raise ValueError("attribute_features: this pipeline has no attribute_adapter: omit them")
            attributes = tuple(VOCABULARY if names is None else names)
            subspace = self.subspace([name for name in attributes if name not in VOCABULARY])
            if not attributes:
                return None, None
            tokens, null = zero_shot_tokens(features.to(device).float(), subspace, attributes, self._embed_captions)
            return tokens, null.expand(batch, -1, -1)
        null = adapter.null(batch)
        return (null if features is None else adapter(features.to(device, adapter.dtype))), null

    def _embed_captions(self, texts: list[str]) -> tuple[torch.Tensor, int]:
        """Return (K, T, W) embeddings of captions by the text encoder, and the tokens of the longest caption."""
        longest = max(len(ids) for ids in self.tokenizer(texts, truncation=True).input_ids)
        return self.encode_prompt(texts, self._execution_device, 1, False)[0], longest

    def save_pretrained(
        self,
        save_directory: str | os.PathLike[str],
        safe_serialization: bool = True,
        variant: str | None = None,
        max_shard_size: int | str | None = None,
    ) -> None:
        """Write a folder that every supported version of transformers can read.

        `FaceDeidPipeline` loads it, and ``DiffusionPipeline`` with ``custom_pipeline="pipelines/face_deid"``. For the
        hub, ``deid-diffusion publish`` adds modules through which ``DiffusionPipeline`` finds the classes.
        """
        super().save_pretrained(
            save_directory, safe_serialization=safe_serialization, variant=variant, max_shard_size=max_shard_size
        )
        write_portable(save_directory)
