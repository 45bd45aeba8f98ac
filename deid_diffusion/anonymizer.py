"""One photo's way through the house: detect, analyse, erase, generate, paste. Nothing else knows all stations."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image

from .errors import DeidError, one_line
from .faces.analysis import FaceAnalysis, analyse_face
from .faces.blend import Canvas, erase, match_rim, sharpen
from .faces.crop import extract
from .faces.detected_face import DetectedFace, FaceDetector, check_image
from .faces.detection import UnionDetector
from .faces.landmarks import FaceMesh, Landmarker
from .faces.mask import box_mask, touched
from .faces.semantic_map import control_image
from .report import FaceRecord

if TYPE_CHECKING:
    from .pipelines.face_deid import FaceDeidPipeline

_BUILTIN = Path(__file__).with_name("builtin")


@dataclass(frozen=True)
class AnonymizedImage:
    """A finished picture and what was done to each of its faces.

    Attributes:
        image: RGB, of the input's size; bit-identical to the input outside the faces' masks.
        faces: one record a face, in the detector's order.
    """

    image: Image.Image
    faces: tuple[FaceRecord, ...]


class Anonymizer:
    """Replaces every face of a photo by another person's.

    >>> anonymizer = Anonymizer.from_pretrained("builtin")  # doctest: +SKIP
    >>> result = anonymizer(Image.open("photo.jpg"))  # doctest: +SKIP
    >>> result.image.save("anonymous.png")  # doctest: +SKIP
    """

    def __init__(
        self,
        pipeline: FaceDeidPipeline,
        *,
        detector: FaceDetector | None = None,
        landmarker: Landmarker | None = None,
        model_name: str = "custom",
    ) -> None:
        """Takes a loaded pipeline and, instead of the defaults, any detector and landmarker."""
        self.pipeline = pipeline
        self.detector = detector or UnionDetector()
        self.landmarker = landmarker or FaceMesh()
        self.model_name = model_name

    @classmethod
    def from_pretrained(cls, model: str = "builtin", *, device: str = "auto") -> Anonymizer:
        """Load a model.

        Args:
            model: "builtin" for the embedded model, a folder written by ``FaceDeidPipeline.save_pretrained``, or the
                name of a hub repository of that layout.
            device: "auto" takes a GPU where there is one; else a torch device such as "cpu", "cuda:1" or "mps".

        Raises:
            DeidError: when there is no such model or device.
        """
        from .pipelines.face_deid import FaceDeidPipeline

        source = str(_BUILTIN) if model == "builtin" else model
        target = _pick_device(device)
        dtype = torch.float16 if target.type == "cuda" else torch.float32
        try:
            pipeline = FaceDeidPipeline.from_pretrained(source, dtype=dtype, trust_remote_code=True)
        except (OSError, ValueError) as error:
            where = "the folder" if Path(source).is_dir() else "no such folder, and from the hub it"
            hint = "give builtin, a folder written by save_pretrained, or a hub name while online"
            raise DeidError(f"model {model}: {where} cannot be loaded ({one_line(error)[:120]}...): {hint}") from error
        pipeline.set_progress_bar_config(disable=True)
        return cls(pipeline.to(target), model_name=model if model == "builtin" else Path(model).name)

    def __call__(
        self,
        image: Image.Image | np.ndarray,
        *,
        steps: int | None = None,
        seed: int | None = None,
        batch_size: int = 8,
    ) -> AnonymizedImage:
        """Replace every face that the detector finds.

        A face that fails at any station is covered by an opaque fill and says why in its record; no exception leaves
        an original face in the result.

        Args:
            image: an upright photo, PIL or (H, W, 3) uint8 RGB.
            steps: denoising steps; the model's own default when None.
            seed: makes the result repeatable, and its faces therefore linkable; fresh randomness when None.
            batch_size: faces denoised together.

        Raises:
            ValueError: for an array of another kind, or steps or batch_size under 1.
        """
        if batch_size < 1 or (steps is not None and steps < 1):
            raise ValueError(f"batch_size and steps must be at least 1, got {batch_size} and {steps}")
        photo = _as_array(image)
        detected = self.detector(photo)
        analysed, problems = self._analyse_all(photo, detected)
        shape = (photo.shape[0], photo.shape[1])
        masks = [
            one.mask if one is not None else box_mask(face.box, shape)
            for one, face in zip(analysed, detected, strict=True)
        ]
        canvas, gone = Canvas(photo, masks), touched(shape, masks)
        seeds = [(seed + k) % 2**63 if seed is not None else secrets.randbits(63) for k in range(len(detected))]
        ready = [k for k, one in enumerate(analysed) if one is not None]
        for start in range(0, len(ready), batch_size):
            rows = ready[start : start + batch_size]
            faces = [one for k in rows if (one := analysed[k]) is not None]
            try:
                made = self._generate(photo, gone, faces, [seeds[k] for k in rows], steps)
            except Exception as error:  # whatever it was, the faces stay covered and the record says why
                problems |= {k: f"generation failed: {one_line(error)[:120]}" for k in rows}
                continue
            for k, face, crop in zip(rows, faces, made, strict=True):
                if crop is None:
                    problems[k] = "generation gave no picture"
                else:
                    canvas.paste(k, crop, face.matrix)
        for k in problems:
            canvas.cover(k)
        records = tuple(
            FaceRecord(
                box=face.box,
                detector=face.detector,
                score=face.score,
                action="covered" if k in problems else "replaced",
                seed=None if k in problems else seeds[k],
                mesh=(one := analysed[k]) is not None and one.mesh is not None,
                reason=problems.get(k),
            )
            for k, face in enumerate(detected)
        )
        return AnonymizedImage(Image.fromarray(canvas.pixels), records)

    def analyse(self, image: Image.Image | np.ndarray) -> tuple[FaceAnalysis, ...]:
        """Detect and measure the faces of a photo; those that cannot be measured are left out."""
        photo = _as_array(image)
        return tuple(one for one in self._analyse_all(photo, self.detector(photo))[0] if one is not None)

    def _analyse_all(
        self, photo: np.ndarray, detected: Sequence[DetectedFace]
    ) -> tuple[list[FaceAnalysis | None], dict[int, str]]:
        analysed: list[FaceAnalysis | None] = []
        problems: dict[int, str] = {}
        for k, face in enumerate(detected):
            try:
                analysed.append(analyse_face(photo, face, self.landmarker, self.pipeline.crop_size))
            except Exception as error:  # a face that cannot be measured is covered, not skipped
                analysed.append(None)
                problems[k] = f"analysis failed: {one_line(error)[:120]}"
        return analysed, problems

    def _generate(
        self,
        photo: np.ndarray,
        gone: np.ndarray,
        faces: Sequence[FaceAnalysis],
        seeds: Sequence[int],
        steps: int | None,
    ) -> list[np.ndarray | None]:
        """New faces for analysed ones, in one denoising run.

        Args:
            photo: (H, W, 3) uint8; read by the attribute encoder only.
            gone: (H, W) bool, every pixel that the mask of any face touches; the generator sees none of them.
            faces: B faces of the photo.
            seeds: one a face.
            steps: denoising steps or None.

        Returns:
            B crops, (S, S, 3) uint8; None for one that came out as NaN or without any detail.
        """
        size = self.pipeline.crop_size
        erased = erase(photo, gone)
        contexts = [extract(erased, face.matrix, size) for face in faces]
        masks = [extract(gone.astype(np.float32), face.matrix, size) > 1e-3 for face in faces]
        features = self.pipeline.encode_attributes(
            torch.stack([_to_tensor(extract(photo, face.matrix, size)) for face in faces]),
            [face.semantic_map for face in faces],
        )
        made = self.pipeline(
            image=torch.stack([_to_tensor(context) for context in contexts]),
            mask_image=torch.stack([torch.from_numpy(mask)[None].float() for mask in masks]),
            control_image=torch.stack([_to_tensor(control_image(face.semantic_map)) for face in faces]),
            attribute_features=features,
            num_inference_steps=steps,
            generator=[torch.Generator("cpu").manual_seed(seed) for seed in seeds],
            output_type="np",
            return_dict=False,
        )[0]
        results: list[np.ndarray | None] = []
        for crop, context, mask in zip(made, contexts, masks, strict=True):
            if not np.isfinite(crop).all() or crop[mask].std() < 0.01:
                results.append(None)
                continue
            picture = sharpen(np.round(crop * 255).astype(np.uint8), self.pipeline.config.default_sharpening)
            results.append(match_rim(picture, context, mask))
        return results


def _as_array(image: Image.Image | np.ndarray) -> np.ndarray:
    if isinstance(image, Image.Image):
        return np.asarray(image.convert("RGB"))
    check_image(image)
    return image


def _to_tensor(crop: np.ndarray) -> torch.Tensor:
    """(H, W, 3) uint8 -> (3, H, W) float32 in 0..1."""
    return torch.from_numpy(np.ascontiguousarray(crop)).permute(2, 0, 1).float() / 255


def _pick_device(device: str) -> torch.device:
    if device == "auto":
        return torch.device(
            "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
        )
    try:
        picked = torch.device(device)
        torch.empty(1, device=picked)
    except (RuntimeError, AssertionError) as error:
        raise DeidError(f"--device {device}: not available here; use auto, cpu, cuda, cuda:N or mps") from error
    return picked
