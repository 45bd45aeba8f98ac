"""A look is learned by being read again: the same numbers have to show in every face that is painted with them."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

_OTHERS = 512  # looks that nobody has, among which a face's own has to be found
_GREY = (0.299, 0.587, 0.114)


class LookReader(nn.Module):
    """Reads looks from grey pictures of faces; thrown away after training.

    InfoGAN's mutual information (Chen et al., NeurIPS 2016) in the form of InfoNCE (van den Oord et al., 2018): among
    many looks, that of the face has to be the likeliest. It sees the face without colour, mirrored, moved, relit,
    blurred and partly covered, so that a look has to show in features all over the face, as a person does, and not in
    a tint or a corner.

    Args:
        look_dim: L, numbers of a look.
        widths: channels of each stage; each halves the picture.
        dim: width of the space in which faces and looks are compared.
    """

    def __init__(self, look_dim: int, widths: tuple[int, ...] = (24, 48, 96, 128), dim: int = 64) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        before = 1
        for width in widths:
            layers += [nn.Conv2d(before, width, 4, 2, 1), nn.GroupNorm(8, width), nn.LeakyReLU(0.2)]
            before = width
        self.layers = nn.Sequential(*layers)
        self.face = nn.Linear(before * 9, dim)
        self.look = nn.Sequential(nn.Linear(look_dim, 2 * dim), nn.SiLU(), nn.Linear(2 * dim, dim))
        self.log_scale = nn.Parameter(torch.tensor(2.3))

    def forward(self, images: torch.Tensor, looks: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The mean cross-entropy, in nats, and the share of faces whose look is found.

        Args:
            images: (B, 3, H, W) face crops in -1..1.
            looks: (B, L), theirs.
        """
        seen = self.layers(disturbed(images).contiguous(memory_format=torch.channels_last))
        found = F.normalize(self.face(F.adaptive_avg_pool2d(seen, 3).flatten(1)).float(), dim=-1)
        others = torch.randn(_OTHERS, looks.shape[1], device=looks.device, dtype=looks.dtype)
        known = F.normalize(self.look(torch.cat([looks, others])).float(), dim=-1)
        logits = self.log_scale.clamp(max=4.0).exp() * found @ known.T
        own = torch.arange(len(looks), device=looks.device)
        return F.cross_entropy(logits, own), (logits.detach().argmax(1) == own).float().mean()


def disturbed(images: torch.Tensor) -> torch.Tensor:
    """(B, 3, H, W) pictures -> (B, 1, H, W): grey, in another light, from another place, softer, partly covered."""
    count, _, height, width = images.shape
    device = images.device

    def draw(spread: float) -> torch.Tensor:
        return spread * torch.randn(count, device=device)

    grey = (images * images.new_tensor(_GREY).view(1, 3, 1, 1)).sum(1, keepdim=True)
    turn, zoom = draw(0.15), draw(0.1).exp()
    mirror = 2.0 * (torch.rand(count, device=device) < 0.5) - 1
    rows = [
        torch.stack([zoom * turn.cos() * mirror, -zoom * turn.sin(), draw(0.06)], 1),
        torch.stack([zoom * turn.sin() * mirror, zoom * turn.cos(), draw(0.06)], 1),
    ]
    grid = F.affine_grid(torch.stack(rows, 1), [count, 1, height, width], align_corners=False)
    view = F.grid_sample(grey, grid.to(grey), padding_mode="reflection", align_corners=False)
    line = torch.linspace(-1, 1, width, device=device)
    light = draw(0.3).view(-1, 1, 1, 1) * line.view(1, 1, 1, -1) + draw(0.3).view(-1, 1, 1, 1) * line.view(1, 1, -1, 1)
    view = view * draw(0.25).exp().view(-1, 1, 1, 1) + light + draw(0.15).view(-1, 1, 1, 1)
    side = int(torch.randint(width // 3, width + 1, ()))
    view = F.interpolate(F.interpolate(view, (side, side), mode="bilinear", antialias=True), (height, width))
    view = view + 0.05 * torch.randn_like(view)
    place = torch.arange(width, device=device).view(1, -1) - (torch.rand(count, 1, device=device) * width)
    across, down = (place.abs() < width * 0.2, place[torch.randperm(count)].abs() < width * 0.2)
    covered = across.view(count, 1, 1, -1) & down.view(count, 1, -1, 1)
    return torch.where(covered, torch.zeros_like(view), view)
