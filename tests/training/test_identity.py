import torch

from deid_diffusion.training.identity import IdentityRepulsion


def test_likeness_costs_and_pushes_away(tiny_pipeline) -> None:
    torch.manual_seed(0)
    vae = tiny_pipeline.vae
    repulsion = IdentityRepulsion(vae, lambda face: face.mean((2, 3)) + 0.01, weight=1.0, side=8)
    original = torch.randn(2, 4, 16, 16)
    predicted = original.clone().requires_grad_()
    same = repulsion(predicted, original, torch.ones(2))
    same.backward()
    assert same > 0.7  # cosine 1, margin 0.2
    assert predicted.grad.abs().sum() >= 0
    assert repulsion(original, original, torch.zeros(2)) == 0  # pure noise shows no face
