"""A frame's faces get the faces that they have in the whole clip; a result that the gate refuses is not shown."""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import astuple, dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from ..errors import DeidError
from ..faces.alignment import resized
from ..faces.lighting import FaceLight
from ..generation import GeneratorInputs, Replacement, Scene, draw_people, generate, prepare_inputs, replace_faces
from ..identity.verification import VerificationResult, Verifier
from ..io.files import write_atomic
from ..io.video_reader import Picture
from ..models.identity_model import Donors
from ..options import Options
from .tracking import Track

if TYPE_CHECKING:
    from ..anonymizer import Anonymizer
    from ..pipelines.face_deid import FaceDeidPipeline


@dataclass(frozen=True, eq=False)
class TrackIdentity:
    """What stays the same of a new face from frame to frame; its semantic map changes.

    Attributes:
        seed: of noise, proportions and look.
        features: (N, D) attribute features of the original face; None where the pipeline reads none.
        donors: the person who is shown.
        pseudonym: the person's, under the key; None without one, or if nobody can say who it is.
    """

    seed: int
    features: torch.Tensor | None
    donors: Donors
    pseudonym: str | None = None


class _IdentityRecorder:
    """A replacer that notes what it gave the one face of a scene."""

    def __init__(self) -> None:
        self.seed: int | None = None
        self.donors: Donors | None = None
        self.features: torch.Tensor | None = None

    def __call__(
        self,
        pipeline: FaceDeidPipeline,
        verifier: Verifier,
        scene: Scene,
        options: Options,
    ) -> dict[int, Replacement]:
        drawn: dict[int, int] = {}  # the same seed whenever it is asked for

        def draw(k: int, attempt: int) -> int:
            return drawn.setdefault(attempt, scene.seed_of(k, attempt))

        if not scene.faces:
            return {}
        (made,) = replace_faces(pipeline, verifier, [replace(scene, seed_of=draw)], options, steady=True)
        rows = list(scene.faces)
        choices = [scene.choices[k] for k in rows]
        faces = [scene.faces[k] for k in rows]
        of_photo = ([scene.photo] * len(rows), [scene.gone] * len(rows))
        conditions = prepare_inputs(pipeline, *of_photo, faces, choices, options.map_blend)
        self.features = None if conditions.features is None else conditions.features[0].float().cpu()
        first = made[rows[0]]
        self.seed = draw(rows[0], 0) if first.seed is None else first.seed
        self.donors = first.donors or draw_people(pipeline, conditions.rows([0]), [self.seed], steady=True)[0]
        return made


def assign_identities(
    anonymizer: Anonymizer, options: Options, tracks: Sequence[Track], frames: Iterable[Picture]
) -> dict[int, TrackIdentity]:
    """A role for each track whose face can be replaced in its best frame, by the track's number.

    With a key, the face in that frame says who it is. The first seed whose face passes the gate there is taken; if none
    does, the first of all, and the gate has to say in each frame whether it may be shown.

    Args:
        anonymizer: replaces the face in that frame, on trial.
        options: with the key, if any.
        tracks: of the clip.
        frames: all of the clip's.

    Raises:
        DeidError: the store of pseudonyms cannot be used.
    """
    wanted: dict[int, list[int]] = {}
    for number, track in enumerate(tracks):
        wanted.setdefault(track.best(), []).append(number)
    roles: dict[int, TrackIdentity] = {}
    for picture in frames:
        for number in wanted.pop(picture.index, ()):
            casting = _IdentityRecorder()
            try:
                photo = picture.rgb()
                face, own = tracks[number].at(picture.index), _own(options, number)
                shown = anonymizer(photo, own, boxes=[face], replacer=casting)  # alone: this picture is never shown
            except DeidError:
                raise
            except Exception:  # without a role the face is covered wherever it is
                continue
            if casting.seed is not None and casting.donors is not None:
                roles[number] = TrackIdentity(casting.seed, casting.features, casting.donors, shown.faces[0].pseudonym)
        if not wanted:
            break
    return roles


def _own(options: Options, number: int) -> Options:
    """The options of one track: where the user gives a seed, each face gets another one that follows from it."""
    return options if options.seed is None else replace(options, seed=(options.seed + number) % 2**63)


def save_identities(path: Path, roles: Mapping[int, TrackIdentity]) -> None:
    """Write roles atomically. Raises ImageError if the disk refuses."""
    buffer = io.BytesIO()
    features = {f"features{k}": role.features.numpy() for k, role in roles.items() if role.features is not None}
    np.savez(
        buffer,
        numbers=np.array(list(roles), np.int64),
        seeds=np.array([role.seed for role in roles.values()], np.uint64),
        donors=np.array([astuple(role.donors) for role in roles.values()], np.int64).reshape(-1, len(fields(Donors))),
        pseudonyms=np.array([role.pseudonym or "" for role in roles.values()], np.str_),
        **features,
    )
    write_atomic(path, buffer.getvalue(), overwrite=True)


def load_identities(path: Path) -> dict[int, TrackIdentity]:
    """What `save_identities` wrote."""
    with np.load(path, allow_pickle=False) as file:
        columns = (file[name].tolist() for name in ("numbers", "seeds", "donors", "pseudonyms"))
        features = {name: torch.from_numpy(file[name]) for name in file.files if name.startswith("features")}
        return {
            number: TrackIdentity(seed, features.get(f"features{number}"), Donors(*donors), name or None)
            for number, seed, donors, name in zip(*columns, strict=True)
        }


_SHAPE = 0.35  # share of the shape so far: a mesh trembles by a pixel, and a mouth must not come late
_COLOUR = 0.6  # share of the colour so far
_MOST = 6.0  # of 255: what differs by more is a change of light, and passes


def steady_shape(mesh: np.ndarray, before: np.ndarray | None) -> np.ndarray:
    """A mesh drawn towards that of the frame before.

    Args:
        mesh: (478, 2) in pixels of the crop, in which the face is upright and of one size in all frames.
        before: the same of the frame before, as this returned it; None at the beginning.
    """
    return mesh if before is None else ((1 - _SHAPE) * mesh + _SHAPE * before).astype(mesh.dtype)


def steady_colour(crop: np.ndarray, mask: np.ndarray, before: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    """A face's crop with its mean colour drawn towards that of the frames before.

    Args:
        crop: (S, S, 3) uint8 RGB, generated.
        mask: (S, S) bool, True where it is.
        before: (3,) mean colour so far, or None at the beginning.

    Returns:
        The crop, every value shifted by 6 at most, and the (3,) mean colour to hand on.
    """
    if not mask.any():
        return crop, np.full(3, 128.0) if before is None else before
    mean = crop[mask].mean(0)
    if before is None:
        return crop, mean
    shift = np.clip(_COLOUR * (before - mean), -_MOST, _MOST)
    return np.clip(crop + shift + 0.5, 0, 255).astype(np.uint8), mean + shift


NO_IDENTITY = "no new face could be made for it"
GUESSED = "not seen by a detector in this frame, and no mesh fits"
_STEADY = 0.7  # share of the light that stays from frame to frame
_HOLD = 5  # frames for which a face that passed may stand in for others that do not


@dataclass
class _Shown:
    """What a track showed last: the (S, S, 3) crop, its mesh, (3,) mean colour and light, and how often it stood in."""

    crop: np.ndarray
    mesh: np.ndarray
    colour: np.ndarray
    light: FaceLight
    held: int = 0


@dataclass
class ClipReplacer:
    """The new faces of a clip, and what of them is carried from frame to frame.

    Attributes:
        roles: by the tracks' numbers.
        options: the user's, with the pseudonyms: faces under a key are painted otherwise (see `generate`).
    """

    roles: Mapping[int, TrackIdentity]
    options: Options
    _shown: dict[int, _Shown] = field(default_factory=dict)

    def in_frame(self, tracks: Sequence[int], seen: Sequence[bool]) -> FrameReplacer:
        """The replacer of one frame, whose faces are those of some tracks; ``seen`` says which a detector saw there."""
        self._shown = {number: one for number, one in self._shown.items() if number in tracks}
        return FrameReplacer(self.roles, self.options, self._shown, tuple(tracks), tuple(seen))


@dataclass(frozen=True)
class FrameReplacer:
    """A `Replacer` of one frame's faces; see `ClipReplacer.in_frame`."""

    roles: Mapping[int, TrackIdentity]
    options: Options
    shown: dict[int, _Shown]
    tracks: tuple[int, ...]
    seen: tuple[bool, ...]

    def __call__(
        self,
        pipeline: FaceDeidPipeline,
        verifier: Verifier,
        scene: Scene,
        options: Options,
    ) -> dict[int, Replacement]:
        """As `replace_faces`, but that seeds and features are those of the tracks, and there is one candidate a face.

        A candidate that the gate refuses gives way to the face that the track showed in the frame before, put where the
        face is now, if the gate passes that. A face that no detector saw is replaced only where a mesh fits.
        """
        results: dict[int, Replacement] = {}
        for k, face in scene.faces.items():
            if self.tracks[k] not in self.roles:
                results[k] = Replacement(NO_IDENTITY)
            elif face.mesh is None and not self.seen[k]:
                results[k] = Replacement(GUESSED)
        rows = [k for k in scene.faces if k not in results]
        for chunk in (rows[start : start + options.batch_size] for start in range(0, len(rows), options.batch_size)):
            try:
                results |= self._replace(pipeline, verifier, scene, chunk, options)
            except Exception as error:  # whatever it was, the faces are covered and the record says why
                for k in chunk:
                    scene.canvas.cover(k)
                    results[k] = Replacement(f"generation failed: {type(error).__name__}")
        return results

    def _replace(
        self, pipeline: FaceDeidPipeline, verifier: Verifier, scene: Scene, rows: Sequence[int], options: Options
    ) -> dict[int, Replacement]:
        roles = [self.roles[self.tracks[k]] for k in rows]
        faces, choices = [scene.faces[k] for k in rows], [scene.choices[k] for k in rows]
        of_photo = ([scene.photo] * len(rows), [scene.gone] * len(rows))
        read = prepare_inputs(pipeline, *of_photo, faces, choices, options.map_blend)
        before = [self.shown.pop(self.tracks[k], None) for k in rows]
        conditions = _kept(read, roles, before)
        made = generate(pipeline, conditions, [role.seed for role in roles], self.options)
        results: dict[int, Replacement] = {}
        given = zip(made, conditions.masks, conditions.meshes, conditions.lights, before, strict=True)
        for k, role, (crop, mask, mesh, light, last_shown) in zip(rows, roles, given, strict=True):
            verdicts = list[VerificationResult]()
            for one in _candidates(crop, mask, mesh, light, last_shown):
                matrix = resized(scene.faces[k].matrix, len(one.crop) / pipeline.crop_size)
                with scene.canvas.preview(k, one.crop, matrix) as picture:
                    verdicts.append(verifier.verify(picture, scene.faces[k], scene.originals[k]))
                if verdicts[-1].reason is None:
                    scene.canvas.paste(k, one.crop, matrix)
                    self.shown[self.tracks[k]] = one
                    results[k] = Replacement(None, role.seed, verdicts[-1].similarity, len(verdicts))
                    break
            else:
                last = verdicts[-1] if verdicts else VerificationResult(None, "generation gave no picture")
                results[k] = Replacement(last.reason, None, last.similarity, len(verdicts))
        return results


def _candidates(
    crop: np.ndarray | None, mask: np.ndarray, mesh: np.ndarray, light: FaceLight, before: _Shown | None
) -> Iterable[_Shown]:
    """What a track may show in a frame, the better first; nothing where generation gave no picture."""
    if crop is None:
        return
    picture, colour = steady_colour(crop, mask, None if before is None else before.colour)
    yield _Shown(picture, mesh, colour, light)
    if before is not None and before.held < _HOLD:
        yield replace(before, held=before.held + 1)


def _kept(read: GeneratorInputs, roles: Sequence[TrackIdentity], before: Sequence[_Shown | None]) -> GeneratorInputs:
    """A frame's conditions with the people and attributes of the tracks, and shapes and light that do not tremble."""
    meshes = [
        steady_shape(mesh, None if one is None else one.mesh) for mesh, one in zip(read.meshes, before, strict=True)
    ]
    lights = [
        light if one is None else light.towards(one.light, _STEADY)
        for light, one in zip(read.lights, before, strict=True)
    ]
    people = tuple(role.donors for role in roles)
    steady = replace(read, meshes=tuple(meshes), lights=tuple(lights), people=people)
    features = [role.features for role in roles if role.features is not None]
    if read.features is None or len(features) < len(roles):
        return steady
    return replace(steady, features=torch.stack(features).to(read.features))
