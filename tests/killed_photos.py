"""Kill runs over a folder of photos, each at another moment, for ``test_fail_closed.py``.

An interpreter of its own: a fork of one in which other tests left threads may hang.
"""

import multiprocessing
import os
import signal
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from tests.conftest import make_tiny_pipeline
from tests.given_faces import FACE, OTHER, given_anonymizer
from tests.test_fail_closed import leaks, output, process


def main(photo: Path, runs: int = 12) -> None:
    """End with an error as soon as a run leaves an original face under an output's name."""
    torch.set_num_threads(1)  # a pool of threads does not survive a fork
    with tempfile.TemporaryDirectory() as folder:
        model = given_anonymizer(make_tiny_pipeline(Path(folder)), FACE, OTHER)
        original = np.asarray(Image.open(photo).convert("RGB"))
        process(photo, model)  # the first run loads packages
        start = time.monotonic()
        process(photo, model)
        duration = time.monotonic() - start
        for run in range(runs):
            for path in output(photo).glob("*"):
                path.unlink()
            child = multiprocessing.get_context("fork").Process(target=process, args=(photo, model))
            child.start()
            time.sleep(duration * (run + 0.5) / runs)
            os.kill(child.pid, signal.SIGKILL)
            child.join()
            if names := leaks(photo, original):
                sys.exit(f"an original face shows in {', '.join(names)}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
