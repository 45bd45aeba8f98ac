"""The pipeline alone: photos in, photos and records out."""

import numpy as np
import pytest
import torch
from PIL import Image

from deid_diffusion import Anonymizer, Options
from deid_diffusion.pipelines.face_deid import FaceDeidPipeline


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_photo_alone_is_the_whole_line(astronaut: np.ndarray, dtype: torch.dtype) -> None:
    pipeline = FaceDeidPipeline.from_pretrained("builtin", torch_dtype=dtype)
    photo = Image.fromarray(astronaut)
    output = pipeline(image=photo, generator=torch.Generator().manual_seed(7))
    ((face,),) = output.records
    expected = Anonymizer(pipeline)(photo, Options(seed=7))
    assert (face.action, face.seed) == ("replaced", expected.faces[0].seed)
    assert np.array_equal(np.asarray(output.images[0]), np.asarray(expected.image))
    assert (np.asarray(output.images[0]) != astronaut).any()


def test_several_photos_and_options(anonymizer: Anonymizer, astronaut: np.ndarray) -> None:
    photos = [Image.fromarray(astronaut), Image.fromarray(np.zeros((64, 64, 3), np.uint8))]
    images, records = anonymizer.pipeline(image=photos, options=Options(keep=("pose",)), return_dict=False)
    assert [image.size for image in images] == [(512, 512), (64, 64)]
    assert records[0][0].kept_attributes == ("pose",)
    assert records[1] == ()


def test_arrays_without_masks_are_refused(anonymizer: Anonymizer) -> None:
    with pytest.raises(ValueError, match="expected PIL photos, or crops together with mask_image and control_image"):
        anonymizer.pipeline(image=torch.rand(1, 3, 128, 128))
