import torch

from deid_diffusion.training.looks import LookReader, disturbed


def test_a_look_that_shows_is_found_and_one_that_does_not_is_not() -> None:
    torch.manual_seed(0)
    reader = LookReader(2, widths=(8, 16), dim=16)
    optimizer = torch.optim.Adam(reader.parameters(), 5e-3)

    def faces(looks: torch.Tensor) -> torch.Tensor:
        stripes = torch.sin(torch.arange(32.0) * 1.2).view(1, 1, -1, 1)
        rows = looks[:, 0].view(-1, 1, 1, 1) * stripes + looks[:, 1].view(-1, 1, 1, 1) * stripes.mT
        return rows.expand(-1, 3, 32, 32)

    first = None
    for _ in range(60):
        looks = torch.randn(16, 2)
        loss, _ = reader(faces(looks), looks)
        first = first or float(loss.detach())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        looks = torch.randn(32, 2)
        assert float(reader(faces(looks), looks)[0]) < first
        assert float(reader(faces(looks), looks)[0]) < float(reader(faces(looks), looks.flip(0))[0])


def test_pictures_are_disturbed_grey_and_finite() -> None:
    torch.manual_seed(0)
    images = torch.rand(3, 3, 24, 24) * 2 - 1
    seen = disturbed(images)
    assert seen.shape == (3, 1, 24, 24)
    assert torch.isfinite(seen).all()
    assert not torch.allclose(seen, disturbed(images))
