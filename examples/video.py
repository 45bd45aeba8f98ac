"""Anonymise a clip and keep its sound: python video.py CLIP RESULT.mp4"""

import sys

from deid_diffusion import Anonymizer

anonymizer = Anonymizer.from_pretrained("builtin")
result = anonymizer.anonymize_video(
    sys.argv[1], sys.argv[2], on_frame=lambda name, done, total: print(name, f"{done}/{total or '?'}", end="\r")
)
print()
for track in result.tracks:
    print(f"frames {track.first} to {track.last}: replaced in {track.replaced}, covered in {track.covered}")
