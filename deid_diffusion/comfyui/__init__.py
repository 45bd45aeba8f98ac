"""Nodes for ComfyUI; the repository's folder `comfyui` is the pack that loads them."""
