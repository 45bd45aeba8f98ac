"""Silence for native code that logs to the process's error stream past every log setting."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def quiet_stderr() -> Iterator[None]:
    """Send file descriptor 2 to nowhere for a moment; exceptions pass.

    MediaPipe's graphs need it while they start and run for the first time: their C++ log is written before any log
    level is read (GLOG_minloglevel and TF_CPP_MIN_LOG_LEVEL change nothing), and TensorFlow Lite's has no level.
    Whatever other threads write to the error stream meanwhile is lost too.
    """
    try:
        saved = os.dup(2)
    except OSError:  # the process has no error stream
        yield
        return
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(saved, 2)
        os.close(saved)
        os.close(nowhere)
