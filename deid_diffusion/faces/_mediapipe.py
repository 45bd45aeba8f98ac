"""mediapipe without its chatter."""

from __future__ import annotations

import os
from typing import Any


def quiet_solutions() -> Any:
    """``mediapipe.solutions``, imported with its C++ log set to errors only."""
    os.environ.setdefault("GLOG_minloglevel", "3")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    import mediapipe

    return mediapipe.solutions
