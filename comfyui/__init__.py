"""ComfyUI loads this folder; the nodes are in the installed package, `pip install deid-diffusion`."""

from deid_diffusion.comfyui.nodes import comfy_entrypoint

__all__ = ["comfy_entrypoint"]
