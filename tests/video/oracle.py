"""Detector and generator for clips of `clips.scene`: one detects the known faces, the other paints noise."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np

from deid_diffusion.faces.boxes import Detection
from tests.video.clips import FACE, Scene, number_of, shows


class Oracle:
    """Detects an actor's face wherever it shows, except in the frames in which it is blind; notes frames searched."""

    def __init__(self, scene: Scene, blind: Collection[int] = ()) -> None:
        self.scene, self.blind = scene, blind
        self.calls: list[int] = []

    def __call__(self, image: np.ndarray) -> list[Detection]:
        number = number_of(image)
        self.calls.append(number)
        if number in self.blind:
            return []
        height, width = image.shape[:2]
        detections = []
        for actor in range(len(self.scene.places[number])):
            box = self.scene.box(number, actor, FACE)
            if box is not None and shows(self.scene, number, actor, image):
                x0, y0, x1, y1 = box
                cut = (float(max(0, x0)), float(max(0, y0)), float(min(width, x1)), float(min(height, y1)))
                detections.append(Detection(cut, 0.9, "oracle"))
        return detections


class Painter:
    """Replaces `generate`: noise from the seed alone. Notes seeds and features, and fails in some of its calls."""

    def __init__(self, failing: Collection[int] = ()) -> None:
        self.failing = failing
        self.seeds: list[list[int]] = []
        self.features: list[np.ndarray] = []
        self.keyed: list[bool] = []

    def __call__(self, pipeline, inputs, donors, seeds, options, callback=None):
        self.seeds.append(list(seeds))
        self.keyed.append(options.pseudonyms is not None)
        self.features.append(np.stack([part.features.numpy() for part in inputs]))
        if len(self.seeds) - 1 in self.failing:
            raise RuntimeError("out of luck")
        return [self.paint(seed, len(part.context)) for seed, part in zip(seeds, inputs, strict=True)]

    def paint(self, seed: int, size: int) -> np.ndarray:
        colour = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), dtype=np.uint8)
        return np.kron(colour, np.ones((-(-size // 4), -(-size // 4), 1), np.uint8))[:size, :size]
