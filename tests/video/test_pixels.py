"""What was changed is shown, and everything else keeps its samples."""

import av
import numpy as np
import pytest

from deid_diffusion.video.pixels import changed, to_rgb


def picture(width: int, height: int) -> np.ndarray:
    rng = np.random.default_rng(0)
    return np.kron(rng.integers(0, 256, (6, 6, 3), dtype=np.uint8), np.ones((99, 99, 1), np.uint8))[:height, :width]


def stored(pixels: str, size: tuple[int, int], matrix: int, span: int) -> av.VideoFrame:
    frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture(*size)), "rgb24")
    frame.colorspace, frame.color_range = matrix, span
    return frame.reformat(format=pixels)


def samples(frame: av.VideoFrame, plane: int) -> np.ndarray:
    one = frame.planes[plane]
    deep = frame.format.components[plane].bits > 8
    rows = np.frombuffer(one, np.uint16 if deep else np.uint8).reshape(one.height, -1)
    return rows[:, : one.width].astype(int)


@pytest.mark.parametrize("turns", [0, 1, 2, 3])
@pytest.mark.parametrize(
    ("pixels", "size"),
    [("yuv420p", (130, 98)), ("yuv420p", (131, 99)), ("yuv422p10le", (130, 98)), ("yuv444p", (131, 99))],
)
def test_only_what_changed_is_converted_back(pixels: str, size: tuple[int, int], turns: int) -> None:
    frame = stored(pixels, size, 1, 1)
    before = to_rgb(frame, turns)
    after = before.copy()
    after[40:60, 50:70] = (200, 100, 30)
    made = changed(frame, pixels, before, after, turns)
    assert (made.colorspace, made.color_range, made.format.name) == (1, 1, pixels)
    seen = to_rgb(made, turns)
    assert np.abs(seen[44:56, 54:66].astype(int) - (200, 100, 30)).max() <= 4
    away = np.ones(before.shape[:2], bool)
    away[36:64, 46:74] = False
    assert (seen == before)[away].all()
    same = changed(frame, pixels, before, before, turns)
    assert all((samples(same, k) == samples(frame, k)).all() for k in range(3))


@pytest.mark.parametrize("matrix", [1, 2, 5, 6, 9])
@pytest.mark.parametrize("span", [0, 1, 2])
def test_the_way_there_and_back_keeps_the_colour(matrix: int, span: int) -> None:
    frame = stored("yuv444p", (64, 64), matrix, span)
    before = to_rgb(frame, 0)
    made = changed(frame, "yuv444p", before, np.full_like(before, (180, 120, 90)), 0)
    assert np.abs(to_rgb(made, 0).astype(int) - (180, 120, 90)).max() <= 3


def test_other_formats_become_planar() -> None:
    for pixels in ("nv12", "rgb24", "gray", "yuva420p", "p010le"):
        frame = av.VideoFrame.from_ndarray(picture(64, 48).copy(), "rgb24").reformat(format=pixels)
        before = to_rgb(frame, 0)
        made = changed(frame, "yuv420p", before, before, 0)
        assert np.abs(to_rgb(made, 0).astype(int) - before).mean() < 8
