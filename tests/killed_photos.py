"""Kill runs over a folder of photos, each at another moment, for ``test_fail_closed.py``.

An interpreter of its own: a fork of one in which other tests left threads may hang.
"""

import multiprocessing
import os
import random
import signal
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from deid_diffusion.anonymizer import Anonymizer
from tests.conftest import make_tiny_pipeline
from tests.fake_verifier import FakeVerifier
from tests.test_fail_closed import FACE, OTHER, leaks, process


def detect(image: np.ndarray) -> list:
    return [FACE, OTHER]


def main(photo: Path, runs: int = 20) -> None:
    """End with an error as soon as a run leaves an original face under an output's name."""
    torch.set_num_threads(1)  # a pool of threads does not survive a fork
    with tempfile.TemporaryDirectory() as folder:
        pipeline = make_tiny_pipeline(Path(folder))
        model = Anonymizer(pipeline, detector=detect, landmarker=lambda crop: None, verifier=FakeVerifier())
        original = np.asarray(Image.open(photo).convert("RGB"))
        rng, start = random.Random(0), time.monotonic()
        process(photo, model)
        duration = time.monotonic() - start
        for _ in range(runs):
            for path in (photo.parent.parent / "out").glob("*"):
                path.unlink()
            child = multiprocessing.get_context("fork").Process(target=process, args=(photo, model))
            child.start()
            time.sleep(rng.uniform(0, duration))
            os.kill(child.pid, signal.SIGKILL)
            child.join()
            if names := leaks(photo, original):
                sys.exit(f"an original face shows in {', '.join(names)}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
