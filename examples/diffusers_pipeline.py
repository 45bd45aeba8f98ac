"""Replace faces with the diffusers pipeline, repeatably: python diffusers_pipeline.py PHOTO RESULT.png"""

import sys

import torch
from PIL import Image

from deid_diffusion import FaceDeidPipeline, Options

pipe = FaceDeidPipeline.from_pretrained("builtin")
output = pipe(
    image=Image.open(sys.argv[1]),
    options=Options(change={"age": "70"}),
    generator=torch.Generator().manual_seed(0),
)
output.images[0].save(sys.argv[2])
for face in output.records[0]:
    print(face.action, face.box, face.similarity, face.reason)
