from diffusers.models.modeling_utils import ModelMixin  # noqa: F401

from deid_diffusion.models.attribute_adapter import AttributeAdapter  # noqa: F401
