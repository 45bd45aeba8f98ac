"""The `deface` package as a tool beside ours: its own code, with its own defaults, one record a photo.

Needs ``pip install deface``.
"""

from __future__ import annotations

import sys
import time
from argparse import Namespace
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from unittest.mock import patch

import numpy as np

from deid_diffusion.batch.planning import Job
from deid_diffusion.results import FaceRecord, ImageRecord, JobResult, append


def deface(jobs: tuple[Job, ...], report_file: Path) -> Iterator[JobResult]:
    """Run `deface PHOTO -o RESULT` on all jobs, with the network loaded once.

    Results are PNG like ours, so that only the faces differ. A photo that cannot be processed raises.
    """
    from deface.centerface import CenterFace
    from deface.deface import image_detect

    class Counting(CenterFace):
        """Keeps the detections of the last photo."""

        def __call__(self, *args: object, **kwargs: object) -> tuple[np.ndarray, np.ndarray]:
            self.faces, points = super().__call__(*args, **kwargs)
            return self.faces, points

    defaults = _defaults()
    network = Counting(in_shape=defaults.scale, backend=defaults.backend)
    versions = {"deface": metadata.version("deface"), "backend": network.backend}
    for job in jobs:
        begun = time.perf_counter()
        job.target.parent.mkdir(parents=True, exist_ok=True)
        unfinished = job.target.with_name(f".{job.target.name}")
        image_detect(
            ipath=str(job.source),
            opath=str(unfinished),
            centerface=network,
            threshold=defaults.thresh,
            replacewith=defaults.replacewith,
            mask_scale=defaults.mask_scale,
            ellipse=not defaults.boxes,
            draw_scores=defaults.draw_scores,
            enable_preview=False,
            keep_metadata=defaults.keep_metadata,
            mosaicsize=defaults.mosaicsize,
        )
        unfinished.replace(job.target)  # an interrupted run leaves no partial result
        seconds = time.perf_counter() - begun
        faces = tuple(
            FaceRecord((x0, y0, x1, y1), "centerface", score, "blurred", None, False)
            for x0, y0, x1, y1, score in network.faces.tolist()
        )
        record = ImageRecord(
            job.input_name,
            job.output_name,
            "done" if faces else "no_face",
            faces=faces,
            versions=versions,
            seconds=seconds,
        )
        append(report_file, record)
        yield JobResult(record)


def _defaults() -> Namespace:
    """Return the defaults of its command line."""
    from deface.deface import parse_cli_args

    with patch.object(sys, "argv", ["deface", "photo"]):
        return parse_cli_args()
