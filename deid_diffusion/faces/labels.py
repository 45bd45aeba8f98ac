"""The semantic map's classes, their names and their colours.

Labels 0 to 18 are CelebAMask-HQ's (Lee et al., "MaskGAN", CVPR 2020). Label 19, the iris, is ours: without it a map
says where an eye is but not where it looks. Left and right are the subject's own.
"""

from __future__ import annotations

import numpy as np

LABELS: tuple[str, ...] = (
    "background", "skin", "nose", "eye_g", "l_eye", "r_eye", "l_brow", "r_brow", "l_ear", "r_ear",
    "mouth", "u_lip", "l_lip", "hair", "hat", "ear_r", "neck_l", "neck", "cloth", "iris",
)  # fmt: skip
LABEL: dict[str, int] = {name: index for index, name in enumerate(LABELS)}

#: (20, 3) uint8 RGB, one colour a label; far apart, so that a resized map can still be read.
PALETTE: np.ndarray = np.array(
    [
        (0, 0, 0), (204, 102, 76), (76, 153, 0), (204, 204, 0), (51, 51, 255), (204, 0, 204), (0, 255, 255),
        (255, 204, 204), (102, 51, 0), (255, 0, 0), (102, 204, 0), (255, 255, 0), (0, 0, 153), (0, 0, 204),
        (255, 51, 153), (0, 204, 204), (0, 51, 0), (255, 153, 51), (0, 204, 0), (255, 255, 255),
    ],
    dtype=np.uint8,
)  # fmt: skip

#: Regions whose CLIP patch features become attribute tokens, each a group of labels.
REGIONS: dict[str, tuple[str, ...]] = {
    "skin": ("skin",),
    "brows": ("l_brow", "r_brow"),
    "eyes": ("l_eye", "r_eye", "iris"),
    "nose": ("nose",),
    "mouth": ("mouth", "u_lip", "l_lip"),
}
