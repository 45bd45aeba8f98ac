"""One clip's way through the house: find, follow, cast, replace frame by frame, join. Only this knows it all."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..errors import DeidError, VideoError
from ..faces.boxes import Detection
from ..io.files import publish, refusal, sha256_of
from ..io.video_reader import Clip, Encoding, Picture, changed, encoding_for, pictures
from ..io.video_writer import SegmentWriter, join, steady_times
from ..results import TrackRecord
from . import checkpoint
from .checkpoint import ClipCheckpoint, ClipStats, track_record
from .identities import ClipReplacer, TrackIdentity, assign_identities, load_identities, save_identities
from .tracking import GAP_S, Chunk, ClipDetections, Track, follow, make_tracks

if TYPE_CHECKING:
    from ..anonymizer import Anonymizer
    from ..options import Options


OnFrame = Callable[[str, int, int], None]
"""Called with what is being done, the frames done, and their number (0: unknown)."""


@dataclass(frozen=True)
class AnonymizedVideo:
    """What became of a clip.

    Attributes:
        tracks: one record a face.
        frames: number of frames.
        missed: faces that only the second look found, and covered.
        filled: frames that were filled altogether.
        errors: kinds of the unexpected exceptions because of which they were.
        sha256: hex digest of the result.
    """

    tracks: tuple[TrackRecord, ...]
    frames: int
    missed: int
    filled: int
    errors: tuple[str, ...]
    sha256: str


def anonymize_clip(
    anonymizer: Anonymizer,
    clip: Clip,
    target: Path,
    options: Options,
    *,
    overwrite: bool = False,
    require_face: bool = False,
    on_frame: OnFrame = lambda what, done, total: None,
) -> AnonymizedVideo:
    """Replace every face in every frame of a clip, and write the result with the clip's sound.

    The frames are gone through twice, and a few of them once more to choose the new faces; one frame at a time is in
    memory. What is finished lies in a hidden folder beside the target: after a kill the same call goes on from there.
    The target appears when all of it is done. A face that fails is covered in that frame; a frame that fails is filled.

    Args:
        anonymizer: with its model loaded.
        clip: made by `open_clip`.
        target: the result; its suffix is one of `formats.WRITABLE`.
        options: the user's wishes. A seed is that of the first face; each later one has the next.
        overwrite: replace an existing file.
        require_face: raise VideoError for a clip in which no face is found.
        on_frame: told how far it is.

    Raises:
        VideoError: the clip is damaged, or the result cannot be written.
        DeidError: the store of pseudonyms cannot be used; the model does not know the attributes that are to be kept.
    """
    encoding = encoding_for(target.suffix, clip.pixels, (clip.width, clip.height))
    work = ClipCheckpoint.open(
        target,
        input=clip.sha256,
        model=anonymizer.model_name,
        verifier=anonymizer.verifier.description,
        options=checkpoint.fingerprint(options, encoding),
    )
    try:
        stretches = _find(anonymizer, clip, work, on_frame)
    except VideoError:  # a damaged clip will not be gone on with
        work.remove()
        raise
    total = sum(len(one.times) for one in stretches)
    found = ClipDetections.joined([one.found for one in stretches])
    if require_face and not len(found.frames):
        work.remove()
        raise VideoError(f"{clip.path}: no face found, and --require-face asks for one: nothing written")
    rate = float(clip.rate)
    tracks = make_tracks(found, follow(found, total, max(1, round(GAP_S * rate))), total, rate, clip.upright)
    roles = _roles(anonymizer, clip, work, options, tracks, total, on_frame)
    unsearched = frozenset(number for one in stretches for number in one.unsearched.tolist())
    _replace(anonymizer, clip, work, encoding, _Plan(tracks, roles, unsearched, options, total), on_frame)
    numbers = range(len(stretches))
    counts = ClipStats.load(work.tally(number) for number in numbers)
    records = tuple(
        track_record(one, counts.of(number), roles.get(number), keyed=options.pseudonyms is not None)
        for number, one in enumerate(tracks)
    )
    raw = np.concatenate([one.times for one in stretches])
    times = steady_times([None if np.isnan(time) else int(time) for time in raw.tolist()], clip)
    result = work.result(target.suffix)
    edited = any(one.action == "replaced" for one in records)
    join(clip, [work.segment(number) for number in numbers], *times, result, target.suffix, ai_edited=edited)
    digest = sha256_of(result)
    try:
        publish(result, target, overwrite=overwrite)
    except OSError as error:
        raise VideoError(refusal(target, error)) from error
    checkpoint.clear(target)
    return AnonymizedVideo(records, total, counts.missed, counts.filled, tuple(sorted(counts.errors)), digest)


def _find(anonymizer: Anonymizer, clip: Clip, work: ClipCheckpoint, on_frame: OnFrame) -> list[Chunk]:
    """The first pass: faces in every frame, and the frames' times. Stretches that are there are not searched again."""
    stretches: list[Chunk] = []
    for number, frames in _stretches(pictures(clip)):
        path = work.found(number)
        if path.exists():
            stretches.append(Chunk.load(path))
            continue
        numbers, faces, unsearched = list[int](), list[Detection](), list[int]()
        times = list[float]()
        for picture in frames:
            try:
                seen = anonymizer.detector(picture.rgb())
            except Exception:  # nobody knows what it shows: it will be filled
                seen = []
                unsearched.append(picture.index)
            numbers += [picture.index] * len(seen)
            faces += seen
            times.append(np.nan if picture.time is None else picture.time)
            on_frame("looking for faces", picture.index + 1, clip.expected)
        found = ClipDetections.of(numbers, faces)
        stretch = Chunk(found, np.array(times), np.array(unsearched, np.int64))
        stretch.save(path)
        stretches.append(stretch)
    return stretches


def _roles(
    anonymizer: Anonymizer,
    clip: Clip,
    work: ClipCheckpoint,
    options: Options,
    tracks: Sequence[Track],
    total: int,
    on_frame: OnFrame,
) -> dict[int, TrackIdentity]:
    """Who is who; drawn once, and the same after a kill."""
    if options.method != "generate" or not tracks:
        return {}
    if not work.roles.exists():
        save_identities(
            work.roles,
            assign_identities(anonymizer, options, tracks, _told(pictures(clip), "choosing faces", total, on_frame)),
        )
    return load_identities(work.roles)


@dataclass(frozen=True, eq=False)
class _Plan:
    """What the second pass goes by; ``unsearched`` are frames that nobody could search."""

    tracks: Sequence[Track]
    roles: dict[int, TrackIdentity]
    unsearched: frozenset[int]
    options: Options
    total: int

    def near(self, first: int, stop: int) -> dict[int, Track]:
        """The tracks, by their numbers, that have a place in some of the frames from first to before stop."""
        ends = {number: (one.places.frames[0], one.places.frames[-1]) for number, one in enumerate(self.tracks)}
        return {number: self.tracks[number] for number, (low, high) in ends.items() if low < stop and first <= high}


def _replace(
    anonymizer: Anonymizer, clip: Clip, work: ClipCheckpoint, encoding: Encoding, plan: _Plan, on_frame: OnFrame
) -> None:
    """The second pass: every stretch that has no segment yet is replaced and encoded."""
    players = ClipReplacer(plan.roles, plan.options)
    options = replace(
        plan.options, pseudonyms=None, seed=None
    )  # nobody is looked up in frames: the roles say who is who
    for number, frames in _stretches(_told(pictures(clip), "replacing faces", plan.total, on_frame)):
        if work.segment(number).exists():
            continue
        counts = ClipStats()
        near = plan.near(number * checkpoint.STRETCH, (number + 1) * checkpoint.STRETCH)
        with SegmentWriter(work.segment(number), clip, encoding) as segment:
            for picture in frames:
                before = picture.rgb()
                here = {k: one for k, one in near.items() if one.has(picture.index)}
                if picture.index in plan.unsearched:
                    after = counts.fill(before, "search failed")
                elif here:
                    after = _frame(anonymizer, picture.index, before, here, players, options, counts)
                else:
                    after = before  # the first pass has just searched this very picture
                segment.add(changed(picture.stored, encoding.pixels, before, after, clip.turns))
            counts.save(work.tally(number))


def _frame(
    anonymizer: Anonymizer,
    frame: int,
    photo: np.ndarray,
    here: dict[int, Track],
    players: ClipReplacer,
    options: Options,
    counts: ClipStats,
) -> np.ndarray:
    """(H, W, 3) uint8: a frame as it is to be shown. Whatever happens, no original face is left on it."""
    replacer = players.in_frame(list(here), [one.seen_at(frame) for one in here.values()])
    try:
        shown = anonymizer(photo, options, boxes=[one.at(frame) for one in here.values()], replacer=replacer)
    except DeidError:
        raise
    except Exception as error:
        return counts.fill(photo, type(error).__name__)
    for (number, track), face in zip(here.items(), shown.faces, strict=False):
        first, last = track.sighted
        counts.of(number).add(face, around=not first <= frame <= last)
    counts.missed += len(shown.faces) - len(here)
    return np.asarray(shown.image)


def _stretches(frames: Iterator[Picture]) -> Iterator[tuple[int, Iterator[Picture]]]:
    """Frames in stretches, with their numbers; what is not taken of a stretch is decoded and dropped."""
    return groupby(frames, lambda picture: picture.index // checkpoint.STRETCH)


def _told(frames: Iterator[Picture], what: str, total: int, on_frame: OnFrame) -> Iterator[Picture]:
    for picture in frames:
        yield picture
        on_frame(what, picture.index + 1, total)
