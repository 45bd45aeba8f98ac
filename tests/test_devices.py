import pytest
import torch

from deid_diffusion.devices import fastest_dtype, pick_device
from deid_diffusion.errors import DeidError


def test_auto_is_a_device_that_is_there() -> None:
    torch.empty(1, device=pick_device("auto"))
    assert pick_device("cpu") == torch.device("cpu")


@pytest.mark.parametrize("name", ["cuda:99", "tpu9"])
def test_a_device_that_is_not_there_is_named(name: str) -> None:
    with pytest.raises(DeidError, match=f"--device {name}: not available here"):
        pick_device(name)


@pytest.mark.parametrize(
    ("instructions", "device", "expected"),
    [
        (("avx512_bf16",), "cpu", torch.bfloat16),
        (("amx_tile",), "cpu", torch.bfloat16),
        ((), "cpu", torch.float32),
        (("avx512_bf16",), "cuda", torch.float16),
        (("avx512_bf16",), "mps", torch.float32),
    ],
)
def test_numbers_are_those_that_the_device_computes_with(
    monkeypatch: pytest.MonkeyPatch, instructions: tuple[str, ...], device: str, expected: torch.dtype
) -> None:
    for name in ("avx512_bf16", "amx_tile"):
        monkeypatch.setattr(torch.cpu, f"_is_{name}_supported", lambda name=name: name in instructions, raising=False)
    assert fastest_dtype(torch.device(device)) == expected
