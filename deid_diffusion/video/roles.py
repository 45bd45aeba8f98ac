"""Who somebody is for a whole clip: a seed and attribute features, chosen in the frame that shows the face best."""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import astuple, dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from ..errors import DeidError
from ..files import write_atomic
from ..generation import draw_people, read_conditions
from ..models.identity_model import Donors
from ..replacement import Replacement, Scene, replace_faces
from .reading import Picture
from .tracks import Track

if TYPE_CHECKING:
    from ..anonymizer import Anonymizer
    from ..identity.verify import Verifier
    from ..options import Options
    from ..pipelines.face_deid import FaceDeidPipeline


@dataclass(frozen=True, eq=False)
class Role:
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


class _Casting:
    """A replacer that notes what it gave the one face of a scene."""

    def __init__(self) -> None:
        self.seed: int | None = None
        self.donors: Donors | None = None
        self.features: torch.Tensor | None = None

    def __call__(
        self,
        pipeline: FaceDeidPipeline,
        gate: Verifier,
        scene: Scene,
        options: Options,
    ) -> dict[int, Replacement]:
        drawn: dict[int, int] = {}  # the same seed whenever it is asked for

        def draw(k: int, attempt: int) -> int:
            return drawn.setdefault(attempt, scene.seed_of(k, attempt))

        if not scene.faces:
            return {}
        (made,) = replace_faces(pipeline, gate, [replace(scene, seed_of=draw)], options, steady=True)
        rows = list(scene.faces)
        choices = [scene.choices[k] for k in rows]
        faces = [scene.faces[k] for k in rows]
        of_photo = ([scene.photo] * len(rows), [scene.gone] * len(rows))
        conditions = read_conditions(pipeline, *of_photo, faces, choices, options.map_privacy)
        self.features = None if conditions.features is None else conditions.features[0].float().cpu()
        first = made[rows[0]]
        self.seed = draw(rows[0], 0) if first.seed is None else first.seed
        self.donors = first.donors or draw_people(pipeline, conditions.rows([0]), [self.seed], steady=True)[0]
        return made


def cast(
    anonymizer: Anonymizer, options: Options, tracks: Sequence[Track], frames: Iterable[Picture]
) -> dict[int, Role]:
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
    roles: dict[int, Role] = {}
    for picture in frames:
        for number in wanted.pop(picture.index, ()):
            casting = _Casting()
            try:
                photo = picture.rgb()
                face, own = tracks[number].at(picture.index), _own(options, number)
                shown = anonymizer(photo, own, boxes=[face], replacer=casting)  # alone: this picture is never shown
            except DeidError:
                raise
            except Exception:  # without a role the face is covered wherever it is
                continue
            if casting.seed is not None and casting.donors is not None:
                roles[number] = Role(casting.seed, casting.features, casting.donors, shown.faces[0].pseudonym)
        if not wanted:
            break
    return roles


def _own(options: Options, number: int) -> Options:
    """The options of one track: where the user gives a seed, each face gets another one that follows from it."""
    return options if options.seed is None else replace(options, seed=(options.seed + number) % 2**63)


def save_roles(path: Path, roles: Mapping[int, Role]) -> None:
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


def load_roles(path: Path) -> dict[int, Role]:
    """What `save_roles` wrote."""
    with np.load(path, allow_pickle=False) as file:
        columns = (file[name].tolist() for name in ("numbers", "seeds", "donors", "pseudonyms"))
        features = {name: torch.from_numpy(file[name]) for name in file.files if name.startswith("features")}
        return {
            number: Role(seed, features.get(f"features{number}"), Donors(*donors), name or None)
            for number, seed, donors, name in zip(*columns, strict=True)
        }
