from diffusers.models.modeling_utils import ModelMixin  # noqa: F401

from deid_diffusion.models.identity_model import IdentityModel  # noqa: F401
