"""One photo's way through the house: detect, analyse, generate, verify, paste, look again. Only this knows it all."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from PIL import Image

from .attributes.selection import MAP_ATTRIBUTES, AttributeSelection, validate_selection
from .errors import DeidError, ImageError, UsageError
from .faces.analysis import FaceAnalysis, analyse_face
from .faces.boxes import Detection, FaceDetector, check_image
from .faces.compositing import Canvas, apply_method
from .faces.detection import DetectionResult, EnsembleDetector
from .faces.landmarks import FaceMesh, Landmarker
from .faces.masks import PasteMask, box_mask, empty_mask, keep_regions, union_mask
from .faces.occlusion import find_occluders, spare_occluders
from .faces.residual_scan import cover_residual_faces, detect, shows_face_through_alpha
from .faces.selection import select_faces
from .generation import Replacement, Replacer, Scene, replace_faces
from .identity.verification import FaceReference, FaceVerifier, Verifier, shows_one_face_there
from .io.annotations import FaceOverride, match_overrides
from .models.identity_model import Donors
from .options import Options
from .pipelines.loading import fastest_dtype, load_pipeline, pick_device, short_name
from .results import Action, FaceRecord

if TYPE_CHECKING:
    from pathlib import Path

    from .identity.pseudonyms import Person
    from .io.images import Photo
    from .pipelines.face_deid import FaceDeidPipeline


_DEFAULTS = Options()
_CHOSEN: Mapping[str, Action] = {"fill": "filled", "blur": "blurred", "pixelate": "pixelated"}
_NEXT_ATTEMPT = 0x1E3779B97F4A7C15  # far from the seeds that other faces, and users' next tries, have
_LEAST_TO_LINK = 36  # shorter side, in pixels, of a face's box under which nobody can say whose it is


@dataclass(frozen=True)
class AnonymizedImage:
    """A finished picture and what was done to each of its faces.

    Attributes:
        image: RGB, of the input's size; bit-identical to the input outside the faces' masks.
        faces: one record a face, in the detector's order; last, those that only the second look found.
    """

    image: Image.Image
    faces: tuple[FaceRecord, ...]


@dataclass(frozen=True, eq=False)
class Begun:
    """A photo whose faces are found, measured and opaque, and wait for others in their place.

    Attributes:
        detected: the faces.
        scene: those that are to be replaced, on their canvas; none for the simple methods, whose work is done.
        options: the user's wishes.
    """

    detected: Sequence[Detection]
    scene: Scene
    options: Options
    faces: Mapping[int, FaceAnalysis]
    kept: Mapping[int, str]
    problems: Mapping[int, str]
    people: Mapping[int, Person]
    whole: Sequence[PasteMask]
    choices: Sequence[AttributeSelection]
    only: Sequence[Detection] | None
    seen: DetectionResult | None


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
        verifier: Verifier | None = None,
        model_name: str = "custom",
    ) -> None:
        """Takes a loaded pipeline and, instead of the defaults, any detector, landmarker and gate."""
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
            model: "builtin" for the embedded model; a preset ("sd15", "sd15-lcm", "sd15-semantic=SOURCE"), see
                `docs/models.md`; a folder written by ``FaceDeidPipeline.save_pretrained``, or a hub repository of that
                layout.
            device: "auto" takes a GPU where there is one; else a torch device such as "cpu", "cuda:1" or "mps".
            dtype: of the weights; None is what the device is fastest with, see `devices.fastest_dtype`.

        Raises:
            DeidError: when there is no such model or device, or parts of a model cannot be downloaded.
        """
        target = pick_device(device)
        pipeline = load_pipeline(model, dtype or fastest_dtype(target))
        pipeline.set_progress_bar_config(disable=True)
        if target.type != "cpu":  # it is there already, and diffusers warns of half precision there
            pipeline = pipeline.to(target)
        return cls(pipeline, model_name=short_name(model))

    def __call__(
        self,
        image: Image.Image | np.ndarray,
        options: Options = _DEFAULTS,
        *,
        boxes: Sequence[Detection] | None = None,
        only: Sequence[Detection] | None = None,
        wishes: Sequence[FaceOverride] = (),
        on_step: OnStep | None = None,
        replacer: Replacer | None = None,
    ) -> AnonymizedImage:
        """Replace every face that the detector finds.

        A face that fails at any station, the gate above all, is covered and says why in its record;
        no exception leaves an original face in the result. The finished picture is searched once more: a face that was
        missed is covered as well.

        Args:
            image: an upright photo, PIL or (H, W, 3) uint8 RGB.
            options: the user's wishes.
            boxes: the faces, found by somebody else; the detector then only takes the second look.
            only: places to which the work is limited; faces elsewhere are left untouched.
            wishes: what is kept and changed of single faces, in place of what the options say of all of them.
            on_step: called after each denoising step with the steps done and the steps of this run, of which there is
                one a batch of candidates. What it raises ends the call.
            replacer: puts verified faces in the faces' places, instead of `replace_faces`, as a clip's does.

        Raises:
            ValueError: for an array of another kind.
            UsageError: for attributes or phrases that the model cannot keep or change, or a wish where no face is.
            DeidError: when the store of pseudonyms cannot be used.
        """
        begun = self.begin(image, options, boxes=boxes, only=only, wishes=wishes)
        with watched(self.pipeline, on_step) as pipeline:
            if replacer is None:
                (made,) = replace_faces(pipeline, self.verifier, [begun.scene], options)
            else:
                made = replacer(pipeline, self.verifier, begun.scene, options)
        return self.finish(begun, made)

    def begin(
        self,
        image: Image.Image | np.ndarray,
        options: Options = _DEFAULTS,
        *,
        boxes: Sequence[Detection] | None = None,
        only: Sequence[Detection] | None = None,
        wishes: Sequence[FaceOverride] = (),
    ) -> Begun:
        """The first part of a call, up to where faces are generated, for callers who do that for many photos at once.

        Another photo may be begun in one thread while a photo is finished in another. Arguments and errors are those
        of a call.
        """
        photo = _as_array(image)
        if options.method == "generate":
            self.check(options, [wish.choice for wish in wishes])
        seen = detect(self.detector, photo) if boxes is None else None
        detected = list(boxes or ()) if seen is None else seen.faces
        chosen = match_overrides(detected, wishes, options.choice)
        kept = select_faces(detected, min_face=options.min_face, only=only).kept
        faces, problems = self._analyse_all(photo, {k: f for k, f in enumerate(detected) if k not in kept})
        originals = self._look_at_all(photo, faces, options, problems)
        kept |= {k: "a person to keep" for k, one in originals.items() if _consents(faces[k], one, options)}
        shape = (photo.shape[0], photo.shape[1])
        whole = [_mask(k, face, faces, kept, shape) for k, face in enumerate(detected)]
        behind = sorted(faces, key=lambda k: detected[k].score)  # what is seen best is in front: it is pasted last
        ready = {k: _spare(photo, faces[k], options) for k in behind if k not in kept and k not in problems}
        masks = [ready[k].mask if k in ready else mask for k, mask in enumerate(whole)]
        canvas, gone = Canvas(photo, masks, options.fill_colour), union_mask(shape, masks)
        people = _people(ready, originals, options)
        if options.method != "generate":
            for k, one in ready.items():
                canvas.paste_patch(k, apply_method(photo, one.mask, options.method))
            ready = {}
        known = {k: Donors.from_bytes(person.donors) for k, person in people.items() if person.donors}
        seeds = _seeds(people, options)
        settle = partial(_settle, people, options)
        scene = Scene(photo, canvas, gone, ready, originals, dict(enumerate(chosen)), seeds, known, settle)
        return Begun(detected, scene, options, faces, kept, problems, people, whole, chosen, only, seen)

    def replace(self, begun: Sequence[Begun]) -> list[dict[int, Replacement]]:
        """The second part, for photos that were begun with the same options: faces of several photos share batches."""
        return (
            replace_faces(self.pipeline, self.verifier, [one.scene for one in begun], begun[0].options) if begun else []
        )

    def finish(self, begun: Begun, made: Mapping[int, Replacement]) -> AnonymizedImage:
        """The last part: what could not be replaced is covered, and the picture is searched once more.

        Args:
            begun: by `begin`.
            made: what `replace` says of its faces.
        """
        detected, canvas, kept, options = begun.detected, begun.scene.canvas, begun.kept, begun.options
        shape = (canvas.pixels.shape[0], canvas.pixels.shape[1])
        problems = {**begun.problems, **{k: one.reason for k, one in made.items() if one.reason is not None}}
        for k in problems:
            canvas.fill(begun.whole[k], k)  # the parts that were to be kept included
        told = begun.choices if self.pipeline.reads_attributes else [one.restrict_to_map() for one in begun.choices]
        faces, people = begun.faces, begun.people
        records = [
            _record(face, faces.get(k), kept.get(k), problems.get(k), made.get(k), people.get(k), options, told[k])
            for k, face in enumerate(detected)
        ]
        records += cover_residual_faces(
            self.detector,
            canvas,
            union_mask(shape, begun.whole),  # with the parts that were to be kept: they are no face that was missed
            [face for k, face in enumerate(detected) if k in kept],
            landmarker=self.landmarker,
            min_face=options.min_face,
            only=begun.only,
            seen=None if detected else begun.seen,  # without faces the picture is the one that was searched
            upright_only=begun.seen is not None,
        )
        return AnonymizedImage(Image.fromarray(canvas.pixels), tuple(records))

    def check(self, options: Options, choices: Sequence[AttributeSelection] = ()) -> None:
        """Raise UsageError where the model cannot do what the options, or choices for single faces, ask for.

        Raises DeidError where it reads attributes but no words, and so cannot keep them apart.
        """
        for choice in (options.choice, *choices):
            if self.pipeline.reads_attributes:
                validate_selection(self.pipeline, choice)
            elif asked := choice.requires_encoder():
                raise UsageError(
                    f"{asked[0]}: this model has no attribute encoder: only {', '.join(MAP_ATTRIBUTES)}, which the "
                    "semantic map carries, can be selected; load it with image_encoder= and attribute_adapter="
                )

    def analyse(self, image: Image.Image | np.ndarray) -> tuple[FaceAnalysis, ...]:
        """Detect and measure the faces of a photo; those that cannot be measured are left out."""
        photo = _as_array(image)
        return tuple(self._analyse_all(photo, dict(enumerate(self.detector(photo))))[0].values())

    def _analyse_all(
        self, photo: np.ndarray, detected: Mapping[int, Detection]
    ) -> tuple[dict[int, FaceAnalysis], dict[int, str]]:
        """The faces that can be measured, and why the others cannot."""
        analysed: dict[int, FaceAnalysis] = {}
        problems: dict[int, str] = {}
        for k, face in detected.items():
            try:
                analysed[k] = analyse_face(photo, face, self.landmarker, self.pipeline.crop_size)
            except DeidError:  # a package is missing: no face can be measured
                raise
            except Exception as error:  # a face that cannot be measured is covered, not skipped
                problems[k] = f"analysis failed: {type(error).__name__}"
        return analysed, problems

    def _look_at_all(
        self, photo: np.ndarray, faces: Mapping[int, FaceAnalysis], options: Options, problems: dict[int, str]
    ) -> dict[int, FaceReference]:
        """What the gate knows of the originals, where that is needed; adds what goes wrong to ``problems``."""
        originals: dict[int, FaceReference] = {}
        if options.method != "generate" and options.keep_people is None:
            return originals
        for k, face in faces.items():
            try:
                originals[k] = self.verifier.reference(photo, face)
            except Exception as error:  # what cannot be compared cannot be verified
                problems[k] = f"recognition failed: {type(error).__name__}"
        return originals


def _consents(face: FaceAnalysis, original: FaceReference, options: Options) -> bool:
    """Whether a face is a person's to keep; where the embedding may be of another face nearby, it is not."""
    if options.keep_people is None or original.embedding is None or not shows_one_face_there(face, original):
        return False
    return options.keep_people.matches(original.embedding)


def _spare(photo: np.ndarray, face: FaceAnalysis, options: Options) -> FaceAnalysis:
    """Leave what stands in front of the face, and the parts that are to be kept, out of its mask.

    Without a mesh nobody knows where they are.
    """
    if face.mesh is None:
        return face
    size, mask = len(face.semantic_map), face.mask
    if options.method == "generate":
        occluders = find_occluders(photo, face.mesh, face.matrix, size)
        mask = mask if occluders is None else spare_occluders(mask, occluders, face.matrix, size)
    if options.keep_regions:
        mask = keep_regions(mask, face.semantic_map, face.matrix, options.keep_regions, size)
    return replace(face, mask=mask)


def _people(
    faces: Mapping[int, FaceAnalysis], originals: Mapping[int, FaceReference], options: Options
) -> dict[int, Person]:
    """With a key, the person of each face that is large enough to tell, and not mixed up with another one."""
    if options.pseudonyms is None:
        return {}
    people = {}
    for k, face in faces.items():
        x0, y0, x1, y1 = face.face.box
        embedding = originals[k].embedding
        sure = min(x1 - x0, y1 - y0) >= _LEAST_TO_LINK and shows_one_face_there(face, originals[k])
        if embedding is not None and sure:
            people[k] = options.pseudonyms.person(embedding)
    return people


def _seeds(people: Mapping[int, Person], options: Options) -> Callable[[int, int], int]:
    """The seed of a face's candidate, (index, attempt) -> seed: the person's, the user's, or fresh randomness."""

    def seed_of(k: int, attempt: int) -> int:
        if k in people:
            return people[k].seed(attempt)
        if options.seed is None:
            return secrets.randbits(63)
        return (options.seed + k + attempt * _NEXT_ATTEMPT) % 2**63

    return seed_of


def _settle(people: Mapping[int, Person], options: Options, index: int, donors: Donors) -> Donors:
    """Keep who stands in a pseudonym's place; in the first photo that says so, for all to come."""
    if options.pseudonyms is None or index not in people:
        return donors
    kept = options.pseudonyms.remember(people[index], donors.to_bytes())
    return Donors.from_bytes(kept) if kept else donors


def _mask(
    k: int,
    face: Detection,
    faces: Mapping[int, FaceAnalysis],
    kept: Mapping[int, str],
    shape: tuple[int, int],
) -> PasteMask:
    if k in kept:
        return empty_mask(shape)
    return faces[k].mask if k in faces else box_mask(face.box, shape)


def _record(
    face: Detection,
    analysed: FaceAnalysis | None,
    kept: str | None,
    problem: str | None,
    made: Replacement | None,
    person: Person | None,
    options: Options,
    choice: AttributeSelection,
) -> FaceRecord:
    action: Action = "kept" if kept else "covered" if problem else _CHOSEN.get(options.method, "replaced")
    return FaceRecord(
        box=face.box,
        detector=face.detector,
        score=face.score,
        action=action,
        seed=made.seed if made and person is None else None,  # a person's seed follows from the key
        mesh=analysed is not None and analysed.mesh is not None,
        reason=kept or problem,
        similarity=made.similarity if made and np.isfinite(made.similarity or 0.0) else None,
        attempts=made.attempts if made else 0,
        pseudonym=person.id if person and action == "replaced" else None,
        kept_attributes=choice.keep if action == "replaced" else (),
        changed_attributes=choice.change if action == "replaced" else {},
    )


def _as_array(image: Image.Image | np.ndarray) -> np.ndarray:
    if isinstance(image, Image.Image):
        return np.asarray(image.convert("RGB"))
    check_image(image)
    return image


def deidentify(
    model: Anonymizer,
    photo: Photo,
    name: str | Path,
    options: Options,
    *,
    require_face: bool,
    boxes: Sequence[Detection] | None = None,
    only: Sequence[Detection] | None = None,
    wishes: Sequence[FaceOverride] = (),
    on_step: OnStep | None = None,
) -> AnonymizedImage:
    """Replace the faces of a photo, and make sure that its transparency shows none that its colours do not.

    Args:
        model, options, boxes, only, wishes, on_step: see `Anonymizer`.
        photo: as `images.read` gives it.
        name: what errors call it.
        require_face: refuse a photo in which no face is found.

    Raises:
        ImageError: there is no face, or one in the transparency alone: nothing of the photo may be written.
        DeidError: as `Anonymizer` does.
    """
    result = model(photo.pixels, options, boxes=boxes, only=only, wishes=wishes, on_step=on_step)
    check_result(model, photo, name, result, options, require_face=require_face, only=only)
    return result


def check_result(
    model: Anonymizer,
    photo: Photo,
    name: str | Path,
    result: AnonymizedImage,
    options: Options,
    *,
    require_face: bool,
    only: Sequence[Detection] | None,
) -> None:
    """Raise ImageError where nothing of a photo may be written; arguments are those of `deidentify`."""
    if require_face and not result.faces:
        raise ImageError(f"{name}: no face found, and --require-face asks for one: nothing written")
    known = [face.box for face in result.faces]
    if photo.alpha is not None and shows_face_through_alpha(
        model.detector, np.asarray(result.image), photo.alpha, known, min_face=options.min_face, only=only
    ):
        raise ImageError(f"{name}: its transparency shows a face that its colours do not: flatten it first")


def edited(result: AnonymizedImage) -> bool:
    """Whether generative AI made a part of it, which the file's mark has to say."""
    return any(face.action == "replaced" for face in result.faces)


OnStep = Callable[[int, int], None]
"""Called after each denoising step with the steps done and the steps of this run; what it raises ends the call."""


class _Ended(BaseException):
    """Carries what a watcher raised past ``except Exception``, which would only cover a face and go on."""

    def __init__(self, error: Exception) -> None:
        self.error = error


class _Watched:
    """A pipeline whose calls tell a watcher of each step; all else is the pipeline's own."""

    def __init__(self, pipeline: FaceDeidPipeline, on_step: OnStep) -> None:
        self._pipeline, self._on_step = pipeline, on_step

    def __getattr__(self, name: str) -> Any:
        return getattr(self._pipeline, name)

    def __call__(self, **inputs: Any) -> Any:
        return self._pipeline(**inputs, callback_on_step_end=self._tell)

    def _tell(self, pipeline: Any, step: int, timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        try:
            self._on_step(step + 1, pipeline.num_timesteps)
        except Exception as error:
            raise _Ended(error) from error
        return tensors


@contextmanager
def watched(pipeline: FaceDeidPipeline, on_step: OnStep | None) -> Iterator[FaceDeidPipeline]:
    """The pipeline, watched; what the watcher raises leaves the ``with`` block as it was raised. None: unwatched.

    A pipeline object is shared by threads, so the watcher is not put on it.
    """
    if on_step is None:
        yield pipeline
        return
    try:
        yield cast("FaceDeidPipeline", _Watched(pipeline, on_step))
    except _Ended as ended:
        raise ended.error from None
