"""A frame's faces get the faces that they have in the whole clip; a result that the gate refuses is not shown."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np
import torch

from ..faces.crop import resized
from ..faces.lighting import FaceLight
from ..generation import Conditions, generate, read_conditions
from ..identity.verify import Verdict, Verifier
from ..options import Options
from ..replacement import Replacement, Scene
from .roles import Role
from .steady import steady_colour, steady_shape

if TYPE_CHECKING:
    from ..pipelines.face_deid import FaceDeidPipeline

NO_ROLE = "no new face could be made for it"
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
class Cast:
    """The new faces of a clip, and what of them is carried from frame to frame.

    Attributes:
        roles: by the tracks' numbers.
        options: the user's, with the pseudonyms: faces under a key are painted otherwise (see `generate`).
    """

    roles: Mapping[int, Role]
    options: Options
    _shown: dict[int, _Shown] = field(default_factory=dict)

    def in_frame(self, tracks: Sequence[int], seen: Sequence[bool]) -> InFrame:
        """The replacer of one frame, whose faces are those of some tracks; ``seen`` says which a detector saw there."""
        self._shown = {number: one for number, one in self._shown.items() if number in tracks}
        return InFrame(self.roles, self.options, self._shown, tuple(tracks), tuple(seen))


@dataclass(frozen=True)
class InFrame:
    """A `Replacer` of one frame's faces; see `Cast.in_frame`."""

    roles: Mapping[int, Role]
    options: Options
    shown: dict[int, _Shown]
    tracks: tuple[int, ...]
    seen: tuple[bool, ...]

    def __call__(
        self,
        pipeline: FaceDeidPipeline,
        gate: Verifier,
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
                results[k] = Replacement(NO_ROLE)
            elif face.mesh is None and not self.seen[k]:
                results[k] = Replacement(GUESSED)
        rows = [k for k in scene.faces if k not in results]
        for chunk in (rows[start : start + options.batch_size] for start in range(0, len(rows), options.batch_size)):
            try:
                results |= self._replace(pipeline, gate, scene, chunk, options)
            except Exception as error:  # whatever it was, the faces are covered and the record says why
                for k in chunk:
                    scene.canvas.cover(k)
                    results[k] = Replacement(f"generation failed: {type(error).__name__}")
        return results

    def _replace(
        self, pipeline: FaceDeidPipeline, gate: Verifier, scene: Scene, rows: Sequence[int], options: Options
    ) -> dict[int, Replacement]:
        roles = [self.roles[self.tracks[k]] for k in rows]
        faces, choices = [scene.faces[k] for k in rows], [scene.choices[k] for k in rows]
        of_photo = ([scene.photo] * len(rows), [scene.gone] * len(rows))
        read = read_conditions(pipeline, *of_photo, faces, choices, options.map_privacy)
        before = [self.shown.pop(self.tracks[k], None) for k in rows]
        conditions = _kept(read, roles, before)
        made = generate(pipeline, conditions, [role.seed for role in roles], self.options)
        results: dict[int, Replacement] = {}
        given = zip(made, conditions.masks, conditions.meshes, conditions.lights, before, strict=True)
        for k, role, (crop, mask, mesh, light, last_shown) in zip(rows, roles, given, strict=True):
            verdicts = list[Verdict]()
            for one in _candidates(crop, mask, mesh, light, last_shown):
                matrix = resized(scene.faces[k].matrix, len(one.crop) / pipeline.crop_size)
                with scene.canvas.trial(k, one.crop, matrix) as picture:
                    verdicts.append(gate.judge(picture, scene.faces[k], scene.originals[k]))
                if verdicts[-1].reason is None:
                    scene.canvas.paste(k, one.crop, matrix)
                    self.shown[self.tracks[k]] = one
                    results[k] = Replacement(None, role.seed, verdicts[-1].similarity, len(verdicts))
                    break
            else:
                last = verdicts[-1] if verdicts else Verdict(None, "generation gave no picture")
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


def _kept(read: Conditions, roles: Sequence[Role], before: Sequence[_Shown | None]) -> Conditions:
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
