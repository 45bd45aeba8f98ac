"""Identities of a clip's tracks: chosen once, then shown in every frame, verified frame by frame."""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import astuple, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from ..errors import DeidError
from ..faces.face import Candidate, Face
from ..faces.lighting import FaceLight
from ..generation import (
    NO_PICTURE,
    FaceGenerator,
    GeneratorInput,
    choose_donors,
    chunks,
    generate,
    paste_or_cover,
    prepare_inputs,
)
from ..io.files import write_atomic
from ..io.video import Frame
from ..models.identity_model import Donors
from ..options import Options
from .tracking import Track

if TYPE_CHECKING:
    from ..anonymizer import Anonymizer

NO_IDENTITY = "no new face could be made for it"
GUESSED = "not seen by a detector in this frame, and no mesh fits"
_SHAPE_SMOOTHING = 0.35  # share of the previous shape: less jitters by a pixel, more delays the mouth
_COLOUR_SMOOTHING = 0.6  # share of the previous mean colour
_MAX_COLOUR_SHIFT = 6.0  # of 255: a larger difference is a change of light, and passes
_LIGHT_SMOOTHING = 0.7  # share of the previous light
_MAX_HELD = 5  # frames for which a verified face may replace candidates that fail


@dataclass(frozen=True, eq=False)
class TrackIdentity:
    """Constant part of a new face from frame to frame.

    Attributes:
        first_seed: of noise and donors.
        features: (N, D) attribute features of the original face; None where the pipeline reads none.
        donors: the synthetic people that the face is mixed from.
        pseudonym: the person's, under the key; None without one, or if the person is unknown.
    """

    first_seed: int
    features: torch.Tensor | None
    donors: Donors
    pseudonym: str | None = None

    def seed(self, attempt: int) -> int:
        return self.first_seed

    def settle(self, donors: Donors) -> Donors:
        return donors


def assign_identities(
    anonymizer: Anonymizer, options: Options, tracks: Sequence[Track], frames: Iterable[Frame]
) -> dict[int, TrackIdentity]:
    """Choose an identity for each track whose face can be replaced in its best frame, by the track's number.

    With a key, the face in that frame determines the pseudonym. The first seed whose face passes verification there is
    taken, or the first of all if none does; every frame is verified later in any case.

    Raises:
        DeidError: the store of pseudonyms cannot be used.
    """
    waiting: dict[int, list[int]] = {}
    for number, track in enumerate(tracks):
        waiting.setdefault(track.best(), []).append(number)
    identities: dict[int, TrackIdentity] = {}
    for picture in frames:
        for number in waiting.pop(picture.index, ()):
            try:
                seed = None if options.seed is None else (options.seed + number) % 2**63
                identity = _identity_in(anonymizer, replace(options, seed=seed), tracks[number], picture)
            except DeidError:
                raise
            except Exception:  # a track without an identity is covered in all frames
                continue
            if identity is not None:
                identities[number] = identity
        if not waiting:
            break
    return identities


def _identity_in(anonymizer: Anonymizer, options: Options, track: Track, picture: Frame) -> TrackIdentity | None:
    """Replace a track's face in a frame that is never shown, and return its seed, features and donors."""
    prepared = anonymizer.prepare(picture.rgb(), options, detections=[track.at(picture.index)])
    (face,) = prepared.faces
    if face.action is not None or face.identity is None:
        return None
    FaceGenerator(anonymizer.pipeline, anonymizer.verifier)(prepared.pending, options, steady=True)
    if face.inputs is None:
        return None
    if face.chosen is not None and face.chosen.donors is not None and face.chosen.seed is not None:
        seed, donors, pseudonym = face.chosen.seed, face.chosen.donors, face.identity.pseudonym
    else:
        seed, pseudonym = face.identity.seed(0), None
        donors = choose_donors(anonymizer.pipeline, face.inputs, seed, steady=True)
    features = None if face.inputs.features is None else face.inputs.features.float().cpu()
    return TrackIdentity(seed, features, donors, pseudonym)


def save_identities(path: Path, identities: Mapping[int, TrackIdentity]) -> None:
    """Write identities atomically. Raises ImageError if the disk refuses."""
    values = {
        number: (identity.first_seed, identity.features, tuple(map(int, astuple(identity.donors))), identity.pseudonym)
        for number, identity in identities.items()
    }
    buffer = io.BytesIO()
    torch.save(values, buffer)
    write_atomic(path, buffer.getvalue(), overwrite=True)


def load_identities(path: Path) -> dict[int, TrackIdentity]:
    """Read identities that `save_identities` wrote."""
    return {
        number: TrackIdentity(seed, features, Donors(*donors), pseudonym)
        for number, (seed, features, donors, pseudonym) in torch.load(path, weights_only=True).items()
    }


def smooth_shape(mesh: np.ndarray, before: np.ndarray | None) -> np.ndarray:
    """Average a mesh, (478, 2) crop pixels, with the smoothed mesh of the frame before, if any."""
    if before is None:
        return mesh
    return ((1 - _SHAPE_SMOOTHING) * mesh + _SHAPE_SMOOTHING * before).astype(mesh.dtype)


def smooth_colour(crop: np.ndarray, mask: np.ndarray, before: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    """Shift the mean colour of a face's crop towards that of the frames before.

    Args:
        crop: (S, S, 3) uint8 RGB, generated.
        mask: (S, S) bool, True where it is generated.
        before: (3,) mean colour so far, or None at the beginning.

    Returns:
        The crop, shifted by 6 of 255 at most, and the (3,) mean colour for the next frame.
    """
    if not mask.any():
        return crop, np.full(3, 128.0) if before is None else before
    mean = crop[mask].mean(0)
    if before is None:
        return crop, mean
    shift = np.clip(_COLOUR_SMOOTHING * (before - mean), -_MAX_COLOUR_SHIFT, _MAX_COLOUR_SHIFT)
    return np.clip(crop + shift + 0.5, 0, 255).astype(np.uint8), mean + shift


@dataclass
class _Shown:
    """Last face of a track: crop (S, S, 3), mesh, mean colour (3,), light, and number of frames it was held."""

    crop: np.ndarray
    mesh: np.ndarray
    colour: np.ndarray
    light: FaceLight
    held: int = 0


@dataclass
class ClipGenerator:
    """Generator of a clip's faces, frame by frame, with identities by the tracks' numbers.

    Shape, colour and light are smoothed over time.
    """

    anonymizer: Anonymizer
    identities: Mapping[int, TrackIdentity]
    options: Options
    _shown: dict[int, _Shown] = field(default_factory=dict)

    def __call__(self, faces: Sequence[Face], tracks: Sequence[int], observed: Sequence[bool]) -> None:
        """Paste a verified face over each pending face, or cover it.

        There is one candidate per face. If it fails verification, the track's last face is tried, at the face's present
        place. A face without a detection is replaced only if a mesh fits.

        Args:
            faces: pending faces of a prepared frame.
            tracks: the track's number of each of the frame's faces, by their index.
            observed: whether a detector saw that face in this frame, likewise.
        """
        self._shown = {number: shown for number, shown in self._shown.items() if number in tracks}
        waiting = []
        for face in faces:
            identity = self.identities.get(tracks[face.index])
            if identity is None:
                face.cover(NO_IDENTITY)
            elif face.geometry.mesh is None and not observed[face.index]:
                face.cover(GUESSED)
            else:
                face.identity = identity
                waiting.append(face)
        for batch in chunks(waiting, self.options.batch_size):
            try:
                self._replace(batch, [tracks[face.index] for face in batch])
            except Exception as error:  # the faces are covered, and the record has the reason
                for face in batch:
                    face.fail(error, "generation")

    def _replace(self, batch: Sequence[Face], tracks: Sequence[int]) -> None:
        pipeline, verifier = self.anonymizer.pipeline, self.anonymizer.verifier
        identities = [self.identities[number] for number in tracks]
        before = [self._shown.pop(number, None) for number in tracks]
        inputs = _steady(prepare_inputs(pipeline, batch, self.options.map_blend), identities, before)
        seeds = [identity.first_seed for identity in identities]
        donors = [
            choose_donors(pipeline, part, seed, identity.donors)
            for part, seed, identity in zip(inputs, seeds, identities, strict=True)
        ]
        crops = generate(pipeline, inputs, donors, seeds, self.options)
        for face, number, part, crop, seed, last in zip(batch, tracks, inputs, crops, seeds, before, strict=True):
            chosen = None
            for shown in _candidates(crop, part, last):
                result = face.verify(shown.crop, verifier, NO_PICTURE)
                face.candidates.append(Candidate(shown.crop, seed, None, result))
                if result.reason is None:
                    chosen, self._shown[number] = face.candidates[-1], shown
                    break
            paste_or_cover(face, chosen)


def _candidates(crop: np.ndarray | None, inputs: GeneratorInput, before: _Shown | None) -> Iterator[_Shown]:
    """Yield a track's candidates in a frame: the generated face, then its last one; none without a picture."""
    if crop is None:
        return
    picture, colour = smooth_colour(crop, inputs.mask, None if before is None else before.colour)
    yield _Shown(picture, inputs.mesh, colour, inputs.light)
    if before is not None and before.held < _MAX_HELD:
        yield replace(before, held=before.held + 1)


def _steady(
    inputs: Sequence[GeneratorInput], identities: Sequence[TrackIdentity], before: Sequence[_Shown | None]
) -> list[GeneratorInput]:
    """Return a frame's inputs with the tracks' features, and with smoothed shapes and light."""
    known = all(identity.features is not None for identity in identities)
    steady = []
    for part, identity, last in zip(inputs, identities, before, strict=True):
        if known and part.features is not None and identity.features is not None:
            part = replace(part, features=identity.features.to(part.features))
        if last is not None:
            light = part.light.towards(last.light, _LIGHT_SMOOTHING)
            part = replace(part, mesh=smooth_shape(part.mesh, last.mesh), light=light)
        steady.append(part)
    return steady
