"""High-level API: detect, analyse, generate, verify and composite every face of an image."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, overload

import numpy as np
import torch
from diffusers.utils import BaseOutput
from PIL import Image

from .attributes.selection import MAP_ATTRIBUTES, AttributeSelection, validate_selection
from .errors import DeidError, ImageError, UsageError
from .faces.analysis import FaceAnalysis, analyse_face
from .faces.boxes import Detection, FaceDetector, check_image
from .faces.compositing import apply_method
from .faces.detection import EnsembleDetector
from .faces.face import Face, PreparedImage
from .faces.finalization import AnonymizedImage, detect, finalize, shows_face_through_alpha
from .faces.landmarks import FaceMesh, Landmarker
from .faces.masks import box_mask, empty_mask, keep_regions
from .faces.occlusion import find_occluders, spare_occluders
from .faces.selection import select_faces
from .generation import FaceGenerator, StepCallback
from .identity.assignment import Identity, PseudonymIdentity, RandomIdentity
from .identity.verification import FaceReference, FaceVerifier, Verifier, shows_one_face_there
from .io import images as image_io
from .io.annotations import FaceOverride, match_overrides
from .options import Options
from .pipelines.loading import fastest_dtype, load_pipeline, pick_device, short_name
from .results import Action, FaceRecord, ImageRecord, versions

if TYPE_CHECKING:
    from .io.images import Photo
    from .pipelines.face_deid import FaceDeidPipeline
    from .video.anonymize import AnonymizedVideo, OnFrame

_DEFAULTS = Options()
_ACTIONS: dict[str, Action] = {"fill": "filled", "blur": "blurred", "pixelate": "pixelated"}
_MIN_SIDE_TO_LINK = 36  # shorter side, in pixels, of a box under which a face is too small to say whose it is


@dataclass
class AnonymizerOutput(BaseOutput):
    """Finished images and their records.

    Attributes:
        images: PIL images, in the inputs' order.
        faces: of each image, one record per face.
    """

    images: list[Image.Image]
    faces: list[tuple[FaceRecord, ...]]


class Anonymizer:
    """Replaces every face of an image by another person's.

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
        verifier: Verifier | None = None,
        model_name: str = "custom",
    ) -> None:
        """Take a loaded pipeline and, instead of the defaults, any detector, landmarker and verifier."""
        self.pipeline = pipeline
        self.detector = detector or EnsembleDetector()
        self.landmarker = landmarker or FaceMesh()
        self.verifier = verifier or FaceVerifier()
        self.model_name = model_name

    @classmethod
    def from_pretrained(
        cls, model: str = "builtin", *, device: str = "auto", dtype: torch.dtype | None = None
    ) -> Anonymizer:
        """Load a model.

        Args:
            model: "builtin" for the built-in model; a preset ("sd15", "sd15-lcm", "sd15-semantic=SOURCE"), see
                `docs/models.md`; a folder written by ``FaceDeidPipeline.save_pretrained``, or a hub repository of that
                layout.
            device: "auto" takes a GPU where there is one; else a torch device such as "cpu", "cuda:1" or "mps".
            dtype: of the weights; None is the device's fastest, see `pipelines.loading.fastest_dtype`.

        Raises:
            DeidError: when there is no such model or device, or parts of a model cannot be downloaded.
        """
        target = pick_device(device)
        pipeline = load_pipeline(model, dtype or fastest_dtype(target))
        pipeline.set_progress_bar_config(disable=True)
        if target.type != "cpu":  # it is there already, and diffusers warns of half precision there
            pipeline = pipeline.to(target)
        return cls(pipeline, model_name=short_name(model))

    @property
    def device(self) -> torch.device:
        """The device that the pipeline runs on."""
        return self.pipeline.device

    def to(self, device: str | torch.device, dtype: torch.dtype | None = None) -> Anonymizer:
        """Move the pipeline, as diffusers' pipelines are moved; returns the anonymizer itself."""
        self.pipeline = self.pipeline.to(device) if dtype is None else self.pipeline.to(device, dtype)
        return self

    @overload
    def __call__(
        self,
        image: Image.Image | np.ndarray,
        options: Options = ...,
        *,
        detections: Sequence[Detection] | None = ...,
        only: Sequence[Detection] | None = ...,
        overrides: Sequence[FaceOverride] = ...,
        callback_on_step_end: StepCallback | None = ...,
    ) -> AnonymizedImage: ...

    @overload
    def __call__(
        self,
        image: Sequence[Image.Image | np.ndarray],
        options: Options = ...,
        *,
        callback_on_step_end: StepCallback | None = ...,
    ) -> AnonymizerOutput: ...

    def __call__(
        self,
        image: Image.Image | np.ndarray | Sequence[Image.Image | np.ndarray],
        options: Options = _DEFAULTS,
        *,
        detections: Sequence[Detection] | None = None,
        only: Sequence[Detection] | None = None,
        overrides: Sequence[FaceOverride] = (),
        callback_on_step_end: StepCallback | None = None,
    ) -> AnonymizedImage | AnonymizerOutput:
        """Replace every face that the detector finds.

        A face that fails at any stage, verification above all, is covered and says why in its record; no exception
        leaves an original face in the result. The finished image is searched once more, and a face that was missed is
        covered as well.

        Args:
            image: one upright image, PIL or (H, W, 3) uint8 RGB, or several, whose faces share batches.
            options: how faces are treated.
            detections: the faces of one image, from another detector; ours then only searches the result.
            only: places of one image to which the work is limited; faces elsewhere are left untouched.
            overrides: attributes to keep and to change of single faces of one image.
            callback_on_step_end: as in diffusers; called after each denoising step of each batch of candidates. What it
                raises ends the call.

        Returns:
            `AnonymizedImage` for one image, `AnonymizerOutput` for several.

        Raises:
            ValueError: for an array of another kind.
            UsageError: for attributes or phrases that the model cannot keep or change, or an override where no face is.
            DeidError: when the store of pseudonyms cannot be used.
        """
        if isinstance(image, (list, tuple)):
            if detections is not None or only is not None or overrides:
                raise ValueError("detections, only, overrides: expected with a single image, got several")
            prepared = [self.prepare(part, options) for part in image]
            self.generate(prepared, options, callback_on_step_end=callback_on_step_end)
            results = [self.finalize(part, options) for part in prepared]
            return AnonymizerOutput([result.image for result in results], [result.faces for result in results])
        (part,) = prepared = [self.prepare(image, options, detections=detections, only=only, overrides=overrides)]  # type: ignore[arg-type]
        self.generate(prepared, options, callback_on_step_end=callback_on_step_end)
        return self.finalize(part, options)

    def anonymize_video(
        self,
        source: str | Path,
        target: str | Path,
        options: Options = _DEFAULTS,
        *,
        overwrite: bool = False,
        require_face: bool = False,
        on_frame: OnFrame | None = None,
    ) -> AnonymizedVideo:
        """Replace every face in every frame of a clip; see `video.anonymize.anonymize_clip`.

        Args:
            source: the clip.
            target: the result; its suffix is its format.
            options: how faces are treated.
            overwrite: replace an existing file.
            require_face: refuse a clip in which no face is found.
            on_frame: called after each frame of each pass with the pass's name, the frames done and their number.

        Raises:
            VideoError: the clip is damaged, it cannot be written, or no face was found although one is required.
            DeidError: as `__call__` does, or a package for clips is missing.
        """
        from .io.video import open_clip
        from .video.anonymize import anonymize_clip

        more = {} if on_frame is None else {"on_frame": on_frame}
        clip = open_clip(Path(source))
        return anonymize_clip(self, clip, Path(target), options, overwrite=overwrite, require_face=require_face, **more)

    def anonymize_bytes(
        self,
        data: bytes,
        options: Options = _DEFAULTS,
        *,
        name: str = "image",
        output: str | Path | None = None,
        max_pixels: int = image_io.MAX_PIXELS,
        require_face: bool = False,
        callback_on_step_end: StepCallback | None = None,
    ) -> tuple[bytes, ImageRecord]:
        """Anonymise an encoded image.

        Args:
            data: bytes of an image file, see `io.images.read`.
            options: how faces are treated.
            name: of the input in errors and in the record.
            output: name of the result, whose suffix is its format; None is ``name`` as a PNG.
            max_pixels: limit of width x height.
            require_face: refuse an image in which no face is found.
            callback_on_step_end: see `__call__`.

        Returns:
            The result's bytes, which carry no metadata but a colour profile and the mark of edited images, and the
            record.

        Raises:
            ImageError: the data is no image or too large, the format cannot hold it, no face was found although one is
                required, or its transparency shows a face that its colours do not.
            DeidError: as `__call__` does.
        """
        start = time.perf_counter()
        photo = image_io.decode(data, name, max_pixels=max_pixels)
        target = Path(name).with_suffix(".png") if output is None else Path(output)
        height, width = photo.pixels.shape[:2]
        image_io.check_target(target, (height, width), photo.alpha)
        result = self(photo.pixels, options, callback_on_step_end=callback_on_step_end)
        encoded, record = self.encode(photo, result, options, target, name=name, require_face=require_face)
        return encoded, replace(record, seconds=round(time.perf_counter() - start, 3))

    def encode(
        self,
        photo: Photo,
        result: AnonymizedImage,
        options: Options,
        output: Path,
        *,
        name: str,
        require_face: bool = False,
        only: Sequence[Detection] | None = None,
    ) -> tuple[bytes, ImageRecord]:
        """Check that a result may be written, and encode it in the format of its name.

        Args:
            photo: the input.
            result: of `finalize`.
            options, name, require_face, only: those that it was made with.
            output: name of the result.

        Raises:
            ImageError: see `anonymize_bytes`.
        """
        if require_face and not result.faces:
            raise ImageError(f"{name}: no face found, and --require-face asks for one: nothing written")
        pixels, known = np.asarray(result.image), [face.box for face in result.faces]
        if photo.alpha is not None and shows_face_through_alpha(
            self.detector, pixels, photo.alpha, known, min_face=options.min_face, only=only
        ):
            raise ImageError(f"{name}: its transparency shows a face that its colours do not: flatten it first")
        encoded = image_io.encode(
            output, pixels, alpha=photo.alpha, icc_profile=photo.icc_profile, ai_edited=result.is_generated
        )
        height, width = photo.pixels.shape[:2]
        record = ImageRecord(
            input=name,
            output=output.name,
            status="done" if result.faces else "no_face",
            input_sha256=photo.sha256,
            output_sha256=hashlib.sha256(encoded).hexdigest(),
            width=width,
            height=height,
            faces=result.faces,
            model=self.model_name,
            gate=self.verifier.description,
            versions=versions(),
        )
        return encoded, record

    def prepare(
        self,
        image: Image.Image | np.ndarray,
        options: Options = _DEFAULTS,
        *,
        detections: Sequence[Detection] | None = None,
        only: Sequence[Detection] | None = None,
        overrides: Sequence[FaceOverride] = (),
    ) -> PreparedImage:
        """Detect and analyse the faces of an image, and make them opaque.

        The first part of a call, for callers who generate for many images at once. One image may be prepared in one
        thread while another is finalised in another. Arguments and errors are those of a call.
        """
        photo = _as_array(image)
        if options.method == "generate":
            self.check(options, [override.selection for override in overrides])
        result = detect(self.detector, photo) if detections is None else None
        boxes = list(detections or ()) if result is None else result.faces
        selections = match_overrides(boxes, overrides, options.selection)
        kept = select_faces(boxes, min_face=options.min_face, only=only).kept
        prepared = PreparedImage(photo, fill_colour=options.fill_colour, only=only, detected=result)
        for index, (detection, selection) in enumerate(zip(boxes, selections, strict=True)):
            face = Face(prepared, index, detection, selection, cover_mask=empty_mask(prepared.shape))
            prepared.faces.append(face)
            if index in kept:
                face.finish("kept", kept[index])
            else:
                self._analyse(face, options)
        pending = prepared.pending
        prepared.mask_faces()
        for face in pending:
            if options.method == "generate":
                face.identity = _identity(face, options)
            else:
                prepared.canvas.paste_patch(face.index, apply_method(photo, face.geometry.mask, options.method))
                face.finish(_ACTIONS[options.method])
        return prepared

    def generate(
        self,
        prepared: Sequence[PreparedImage],
        options: Options = _DEFAULTS,
        *,
        callback_on_step_end: StepCallback | None = None,
    ) -> None:
        """Put a verified face in the place of each face that waits for one; faces of several images share batches."""
        faces = chain.from_iterable(image.pending for image in prepared)
        FaceGenerator(self.pipeline, self.verifier)(faces, options, callback_on_step_end=callback_on_step_end)

    def finalize(self, image: PreparedImage, options: Options = _DEFAULTS) -> AnonymizedImage:
        """Cover the faces that could not be replaced, and search the finished image once more."""
        return finalize(
            image,
            options,
            detector=self.detector,
            landmarker=self.landmarker,
            map_only=not self.pipeline.reads_attributes,
        )

    def check(self, options: Options, selections: Sequence[AttributeSelection] = ()) -> None:
        """Raise UsageError where the model cannot do what the options, or selections for single faces, ask for.

        Raises DeidError where it reads attributes but no words, and so cannot keep them apart.
        """
        for selection in (options.selection, *selections):
            if self.pipeline.reads_attributes:
                validate_selection(self.pipeline, selection)
            elif unsupported := selection.requires_encoder():
                raise UsageError(
                    f"{unsupported[0]}: this model has no attribute encoder: only {', '.join(MAP_ATTRIBUTES)}, which "
                    "the semantic map carries, can be selected; load it with image_encoder= and attribute_adapter="
                )

    def analyse(self, image: Image.Image | np.ndarray) -> tuple[FaceAnalysis, ...]:
        """Detect and measure the faces of an image; those that cannot be measured are left out."""
        photo, analyses = _as_array(image), []
        for detection in self.detector(photo):
            try:
                analyses.append(analyse_face(photo, detection, self.landmarker, self.pipeline.crop_size))
            except DeidError:
                raise
            except Exception:
                continue
        return tuple(analyses)

    def _analyse(self, face: Face, options: Options) -> None:
        """Measure a face and its identity; one that fails is covered, one whose person consented is kept."""
        photo, stage = face.image.photo, "analysis"
        face.cover_mask = box_mask(face.detection.box, face.image.shape)
        try:
            analysis = analyse_face(photo, face.detection, self.landmarker, self.pipeline.crop_size)
            face.analysis, face.cover_mask = analysis, analysis.mask
            if options.method == "generate" or options.keep_people is not None:
                stage = "recognition"
                face.reference = self.verifier.reference(photo, analysis)
            if _has_consent(analysis, face.reference, options):
                face.cover_mask = empty_mask(face.image.shape)
                face.finish("kept", "a person to keep")
                return
            stage = "masking"
            face.analysis = _with_spared_parts(photo, analysis, options)
        except DeidError:  # a package or a model is missing: no face can be analysed
            raise
        except Exception as error:
            face.finish("covered", f"{stage} failed: {type(error).__name__}")


def _has_consent(analysis: FaceAnalysis, reference: FaceReference | None, options: Options) -> bool:
    """Return whether a face is a person's to keep; where the embedding may be of another face nearby, it is not."""
    if options.keep_people is None or reference is None or reference.embedding is None:
        return False
    return shows_one_face_there(analysis, reference) and options.keep_people.matches(reference.embedding)


def _with_spared_parts(photo: np.ndarray, analysis: FaceAnalysis, options: Options) -> FaceAnalysis:
    """Leave what stands in front of the face, and the regions to keep, out of its mask; both need a mesh."""
    if analysis.mesh is None:
        return analysis
    size, mask = len(analysis.semantic_map), analysis.mask
    if options.method == "generate":
        occluders = find_occluders(photo, analysis.mesh, analysis.matrix, size)
        mask = mask if occluders is None else spare_occluders(mask, occluders, analysis.matrix, size)
    if options.keep_regions:
        mask = keep_regions(mask, analysis.semantic_map, analysis.matrix, options.keep_regions, size)
    return replace(analysis, mask=mask)


def _identity(face: Face, options: Options) -> Identity:
    """Return the identity that replaces a face: a person's under the key, else a random one.

    With a key, a face that is too small, or that overlaps another one, is not linked to a person.
    """
    reference, analysis = face.reference, face.geometry
    if options.pseudonyms is not None and reference is not None and reference.embedding is not None:
        x0, y0, x1, y1 = face.detection.box
        if min(x1 - x0, y1 - y0) >= _MIN_SIDE_TO_LINK and shows_one_face_there(analysis, reference):
            return PseudonymIdentity(options.pseudonyms.person(reference.embedding), options.pseudonyms)
    return RandomIdentity(None if options.seed is None else options.seed + face.index)


def _as_array(image: Image.Image | np.ndarray) -> np.ndarray:
    if isinstance(image, Image.Image):
        return np.asarray(image.convert("RGB"))
    check_image(image)
    return image
