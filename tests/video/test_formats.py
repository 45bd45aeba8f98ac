"""Which results clips get."""

from pathlib import Path

import pytest

from deid_diffusion.errors import VideoError
from deid_diffusion.video.formats import encoding_for, is_clip, result_suffix


def test_clips_are_known_by_their_suffix() -> None:
    assert is_clip(Path("a.MP4"))
    assert is_clip(Path("a.avi"))
    assert not is_clip(Path("a.gif"))  # a photo's suffix
    assert [result_suffix(Path(name)) for name in ("a.mp4", "a.MOV", "a.webm", "a.avi")] == [
        ".mp4",
        ".MOV",
        ".webm",
        ".mkv",
    ]


@pytest.mark.parametrize(
    ("suffix", "pixels", "size", "codec", "kept"),
    [
        (".mp4", "yuv420p", (320, 240), "libx264", "yuv420p"),
        (".mp4", "yuvj420p", (320, 240), "libx264", "yuv420p"),
        (".mp4", "yuv420p", (321, 240), "libx264", "yuv444p"),
        (".mp4", "yuv422p", (320, 241), "libx264", "yuv422p"),
        (".mkv", "yuv420p10le", (320, 240), "libx264", "yuv420p10le"),
        (".mov", "yuv422p12le", (320, 240), "libx264", "yuv422p10le"),
        (".mkv", "bgr24", (320, 240), "libx264", "yuv444p"),
        (".mkv", "gray", (320, 240), "libx264", "yuv420p"),
        (".mkv", "nv12", (320, 240), "libx264", "yuv420p"),
        (".webm", "yuv420p", (321, 241), "libvpx-vp9", "yuv420p"),
        (".webm", "yuva444p", (320, 240), "libvpx-vp9", "yuv444p"),
    ],
)
def test_the_pixel_format_is_kept_as_far_as_it_can_be(
    suffix: str, pixels: str, size: tuple[int, int], codec: str, kept: str
) -> None:
    made = encoding_for(suffix, pixels, size)
    assert (made.codec, made.pixels) == (codec, kept)


def test_a_container_that_is_read_only_is_refused() -> None:
    with pytest.raises(VideoError, match=r"cannot be written as \.avi"):
        encoding_for(".avi", "yuv420p", (320, 240))
