"""Anonymise a clip: detect in every frame, track, assign identities, replace frame by frame, join the segments."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..errors import DeidError, VideoError
from ..faces.boxes import Detection
from ..io.files import image_errors, publish, sha256_of
from ..io.video import (
    Clip,
    Encoding,
    Frame,
    SegmentWriter,
    encoding_for,
    iter_frames,
    join,
    replace_changed,
    steady_times,
)
from ..results import TrackRecord
from . import checkpoint
from .checkpoint import ClipCheckpoint, ClipStats, track_record
from .identities import ClipGenerator, TrackIdentity, assign_identities, load_identities, save_identities
from .tracking import GAP_S, Chunk, ClipDetections, Track, follow, make_tracks

if TYPE_CHECKING:
    from ..anonymizer import Anonymizer
    from ..options import Options

OnFrame = Callable[[str, int, int], None]
"""Called with the name of the pass, the frames done, and their number (0: unknown)."""


@dataclass(frozen=True)
class AnonymizedVideo:
    """Result of `anonymize_clip`.

    Attributes:
        tracks: one record per tracked face.
        frames: number of frames.
        missed: faces that only the residual scan found, and covered.
        filled: frames that were filled as a whole.
        errors: types of the exceptions because of which they were.
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
    on_frame: OnFrame = lambda name, done, total: None,
) -> AnonymizedVideo:
    """Replace every face in every frame of a clip, and write the result with the clip's audio.

    The frames are decoded two to three times, one at a time in memory. Finished chunks are kept in a hidden folder
    beside the target, from which the same call resumes after a kill. A face that fails is covered in that frame; a
    frame that fails is filled.

    Args:
        anonymizer: with its model loaded.
        clip: of `open_clip`.
        target: the result; its suffix is one of `io.video.WRITABLE`.
        options: how faces are treated. A seed is that of the first face; each later one has the next.
        overwrite: replace an existing file.
        require_face: raise VideoError for a clip in which no face is found.
        on_frame: called after each frame of each pass.

    Raises:
        VideoError: the clip is damaged, or the result cannot be written.
        DeidError: the store of pseudonyms cannot be used, or the model does not know the attributes to keep.
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
        chunks = _detect(anonymizer, clip, work, on_frame)
    except VideoError:  # a damaged clip is not resumed
        work.remove()
        raise
    total = sum(len(chunk.times) for chunk in chunks)
    detections = ClipDetections.joined([chunk.detections for chunk in chunks])
    if require_face and not len(detections.frames):
        work.remove()
        raise VideoError(f"{clip.path}: no face found, and --require-face asks for one: nothing written")
    rate = float(clip.rate)
    groups = follow(detections, total, max(1, round(GAP_S * rate)))
    tracks = make_tracks(detections, groups, total, rate, clip.upright)
    frames = _reported(iter_frames(clip), "choosing faces", total, on_frame)
    identities = _identities(anonymizer, options, tracks, frames, work.identities)
    unsearched = frozenset(frame for chunk in chunks for frame in chunk.unsearched.tolist())
    frames = _reported(iter_frames(clip), "replacing faces", total, on_frame)
    _replace(frames, clip, work, encoding, ClipGenerator(anonymizer, identities, options), tracks, unsearched)
    numbers = range(len(chunks))
    stats = ClipStats.load(map(work.stats, numbers))
    records = tuple(
        track_record(track, stats.of(number), identities.get(number), keyed=options.pseudonyms is not None)
        for number, track in enumerate(tracks)
    )
    stored = np.concatenate([chunk.times for chunk in chunks])
    times = steady_times([None if np.isnan(time) else int(time) for time in stored.tolist()], clip)
    result = work.result(target.suffix)
    generated = any(record.action == "replaced" for record in records)
    join(clip, list(map(work.segment, numbers)), *times, result, target.suffix, ai_edited=generated)
    digest = sha256_of(result)
    with image_errors(target, VideoError):
        publish(result, target, overwrite=overwrite)
    checkpoint.clear(target)
    return AnonymizedVideo(records, total, stats.missed, stats.filled, tuple(sorted(stats.errors)), digest)


def _detect(anonymizer: Anonymizer, clip: Clip, work: ClipCheckpoint, on_frame: OnFrame) -> list[Chunk]:
    """Detect the faces of every frame and read the frames' times; chunks that exist are not searched again."""
    chunks: list[Chunk] = []
    for number, frames in _by_chunk(iter_frames(clip)):
        path = work.detections(number)
        if path.exists():
            chunks.append(Chunk.load(path))
            continue
        numbers, faces, unsearched, times = list[int](), list[Detection](), list[int](), list[float]()
        for picture in frames:
            try:
                detections = anonymizer.detector(picture.rgb())
            except Exception:  # the frame will be filled
                detections = []
                unsearched.append(picture.index)
            numbers += [picture.index] * len(detections)
            faces += detections
            times.append(np.nan if picture.time is None else picture.time)
            on_frame("looking for faces", picture.index + 1, clip.expected)
        chunk = Chunk(ClipDetections.of(numbers, faces), np.array(times), np.array(unsearched, np.int64))
        chunk.save(path)
        chunks.append(chunk)
    return chunks


def _identities(
    anonymizer: Anonymizer, options: Options, tracks: Sequence[Track], frames: Iterator[Frame], path: Path
) -> dict[int, TrackIdentity]:
    """Return the tracks' identities, drawn once and read again after a kill."""
    if options.method != "generate" or not tracks:
        return {}
    if not path.exists():
        save_identities(path, assign_identities(anonymizer, options, tracks, frames))
    return load_identities(path)


def _replace(
    frames: Iterator[Frame],
    clip: Clip,
    work: ClipCheckpoint,
    encoding: Encoding,
    generator: ClipGenerator,
    tracks: Sequence[Track],
    unsearched: frozenset[int],
) -> None:
    """Replace and encode every chunk that has no segment yet; fill frames in which detection failed."""
    for number, pictures in _by_chunk(frames):
        if work.segment(number).exists():
            continue
        stats = ClipStats()
        with SegmentWriter(work.segment(number), clip, encoding) as segment:
            for picture in pictures:
                before = picture.rgb()
                present = {index: track for index, track in enumerate(tracks) if track.has(picture.index)}
                if picture.index in unsearched:
                    after = stats.fill(before, "search failed")
                elif present:
                    after = _frame(generator, picture.index, before, present, stats)
                else:
                    after = before  # the first pass detected no face in it
                segment.add(replace_changed(picture.stored, encoding.pixels, before, after, clip.turns))
            stats.save(work.stats(number))


def _frame(
    generator: ClipGenerator, frame: int, photo: np.ndarray, tracks: Mapping[int, Track], stats: ClipStats
) -> np.ndarray:
    """Return an anonymised frame, (H, W, 3) uint8, filled as a whole after an unexpected error."""
    anonymizer = generator.anonymizer
    options = replace(generator.options, pseudonyms=None, seed=None)  # identities are the tracks'
    try:
        prepared = anonymizer.prepare(photo, options, detections=[track.at(frame) for track in tracks.values()])
        generator(prepared.pending, list(tracks), [track.observed_at(frame) for track in tracks.values()])
        result = anonymizer.finalize(prepared, options)
    except DeidError:
        raise
    except Exception as error:
        return stats.fill(photo, type(error).__name__)
    for (number, track), face in zip(tracks.items(), result.faces, strict=False):
        first, last = track.observed_frames
        stats.of(number).add(face, around=not first <= frame <= last)
    stats.missed += len(result.faces) - len(tracks)
    return np.asarray(result.image)


def _by_chunk(frames: Iterator[Frame]) -> Iterator[tuple[int, Iterator[Frame]]]:
    """Group frames by chunk; those of a group that is not read are decoded and dropped."""
    return groupby(frames, lambda picture: picture.index // checkpoint.CHUNK_FRAMES)


def _reported(frames: Iterator[Frame], name: str, total: int, on_frame: OnFrame) -> Iterator[Frame]:
    """Yield frames, and report each of them after its use."""
    for picture in frames:
        yield picture
        on_frame(name, picture.index + 1, total)
