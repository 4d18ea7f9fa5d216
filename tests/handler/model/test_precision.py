import pytest
import torch

from handler.errors import PrecisionError
from handler.model.precision import choose_dtype

CPU, GPU = torch.device("cpu"), torch.device("cuda")


@pytest.mark.parametrize(
    ("flags", "asked", "device", "dtype"),
    [
        ({"avx2"}, "auto", CPU, torch.float32),
        ({"avx512f", "avx512_bf16"}, "auto", CPU, torch.bfloat16),
        ({"amx_tile", "amx_bf16"}, "auto", CPU, torch.bfloat16),
        ({"avx2"}, "bf16", CPU, torch.bfloat16),
        ({"avx512_bf16"}, "fp32", CPU, torch.float32),
        ({"avx512_fp16"}, "fp16", CPU, torch.float16),
        (set(), "auto", GPU, torch.float16),
        (set(), "bf16", GPU, torch.bfloat16),
    ],
)
def test_choice(
    monkeypatch: pytest.MonkeyPatch, flags: set, asked: str, device: torch.device, dtype: torch.dtype
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: dict.fromkeys(flags, True))
    assert choose_dtype(asked, device) is dtype


@pytest.mark.parametrize(("asked", "said"), [("fp16", "no fp16 arithmetic"), ("int4", "'int4'")])
def test_refusals_are_one_sentence(monkeypatch: pytest.MonkeyPatch, asked: str, said: str) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx2": True})
    with pytest.raises(PrecisionError, match=said):
        choose_dtype(asked, CPU)
