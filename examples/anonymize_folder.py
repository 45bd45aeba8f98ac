"""Anonymise all images of a folder, faces of several images in one batch: python anonymize_folder.py PHOTOS OUT"""

import sys
from pathlib import Path

from PIL import Image

from deid_diffusion import Anonymizer, Options

source, target = Path(sys.argv[1]), Path(sys.argv[2])
target.mkdir(parents=True, exist_ok=True)
paths = sorted(path for path in source.iterdir() if path.suffix.lower() in (".jpg", ".jpeg", ".png"))

anonymizer = Anonymizer.from_pretrained("builtin")
options = Options(keep=("expression", "pose", "gaze", "age", "gender", "light"))
for start in range(0, len(paths), 4):
    batch = paths[start : start + 4]
    output = anonymizer([Image.open(path) for path in batch], options)
    for path, image, faces in zip(batch, output.images, output.faces, strict=True):
        image.save(target / f"{path.stem}.png")
        print(path.name, [face.action for face in faces])
