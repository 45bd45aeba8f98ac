from diffusers.models.modeling_utils import ModelMixin  # noqa: F401

from deid_diffusion.models.face_encoder import FaceEncoder  # noqa: F401
