"""Give one person the same new face in all photos, under a secret key: python pseudonyms.py KEY STORE PHOTO...

Results that are linkable by a key are pseudonymised, not anonymised (GDPR Art. 4(5)).
"""

import sys
from pathlib import Path

from PIL import Image

from deid_diffusion import Anonymizer, Options, Pseudonyms
from deid_diffusion.identity.keys import new_key, read_key
from deid_diffusion.identity.recognition import SAME_PSEUDONYM, DlibRecogniser

key_file, store, *photos = map(Path, sys.argv[1:])
if not key_file.exists():
    new_key(key_file)

anonymizer = Anonymizer.from_pretrained("builtin")
people = Pseudonyms(read_key(key_file), store, recogniser=DlibRecogniser.name, dimension=128, threshold=SAME_PSEUDONYM)
for photo in photos:
    result = anonymizer(Image.open(photo), Options(pseudonyms=people))
    result.image.save(photo.with_name(f"{photo.stem}_anonymous.png"))
    print(photo.name, [face.pseudonym for face in result.faces])
