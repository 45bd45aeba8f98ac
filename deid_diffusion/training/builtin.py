"""The embedded model's shapes: UNet, ControlNet and noise schedule."""

from __future__ import annotations

from diffusers import ControlNetModel, DDIMScheduler, UNet2DConditionModel


def make_scheduler() -> DDIMScheduler:
    """Velocity prediction from zero terminal SNR (Lin et al., WACV 2024): sampling starts from pure noise."""
    return DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=True,
        steps_offset=1,
        prediction_type="v_prediction",
        timestep_spacing="trailing",
        rescale_betas_zero_snr=True,
    )


def make_unet(widths: tuple[int, ...], *, sample_size: int, cross_attention_dim: int) -> UNet2DConditionModel:
    """A 9-channel inpainting UNet with cross-attention at the bottom level only, where it is cheap."""
    count = len(widths)
    return UNet2DConditionModel(
        sample_size=sample_size,
        in_channels=9,
        out_channels=4,
        layers_per_block=1,
        block_out_channels=widths,
        down_block_types=("DownBlock2D",) * (count - 1) + ("CrossAttnDownBlock2D",),
        up_block_types=("CrossAttnUpBlock2D",) + ("UpBlock2D",) * (count - 1),
        cross_attention_dim=cross_attention_dim,
        attention_head_dim=8,
        norm_num_groups=16,
    )


def make_controlnet(unet: UNet2DConditionModel, vae_scale_factor: int) -> ControlNetModel:
    """A ControlNet of the UNet's own shape for 4-channel latents; its map branch shrinks as much as the VAE does.

    Its zero convolutions, which protect a trained UNet, are drawn like any other layer: here both start together.
    """
    levels = vae_scale_factor.bit_length()
    controlnet = ControlNetModel(
        in_channels=4,
        conditioning_channels=3,
        layers_per_block=unet.config.layers_per_block,
        block_out_channels=unet.config.block_out_channels,
        down_block_types=unet.config.down_block_types,
        cross_attention_dim=unet.config.cross_attention_dim,
        attention_head_dim=unet.config.attention_head_dim,
        norm_num_groups=unet.config.norm_num_groups,
        conditioning_embedding_out_channels=tuple(16 * 2**i for i in range(levels)),
    )
    zeroed = (
        *controlnet.controlnet_down_blocks,
        controlnet.controlnet_mid_block,
        controlnet.controlnet_cond_embedding.conv_out,
    )
    for layer in zeroed:
        layer.reset_parameters()
    return controlnet
