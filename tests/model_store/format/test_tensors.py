import pytest
import torch

from model_store.format.tensors import decode, encode
from petl_vit.errors import Corrupt, InvalidInput


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.int64])
def test_tensors_read_back_bit_for_bit(dtype: torch.dtype) -> None:
    tensors = {"a": torch.arange(6).reshape(2, 3).to(dtype), "scalar": torch.tensor(1).to(dtype)}
    found = decode(encode(tensors), key="x", remedy="")
    assert found.keys() == tensors.keys()
    assert all(torch.equal(found[name], tensors[name]) and found[name].dtype == dtype for name in tensors)


def test_views_and_shared_memory_are_stored_as_copies() -> None:
    base = torch.arange(6.0).reshape(2, 3).requires_grad_()
    found = decode(encode({"a": base, "row": base[0], "turned": base.T}), key="x", remedy="")
    assert torch.equal(found["turned"], base.detach().T)
    assert torch.equal(found["row"], base.detach()[0])


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_values_that_are_not_finite_are_refused_by_name(value: float) -> None:
    with pytest.raises(InvalidInput, match="tensor 'bad'"):
        encode({"good": torch.zeros(1), "bad": torch.tensor([0.0, value])})


def test_no_tensors_at_all_are_refused() -> None:
    with pytest.raises(InvalidInput, match="no tensors"):
        encode({})


def test_damaged_bytes_name_the_file_and_the_remedy() -> None:
    with pytest.raises(Corrupt, match=r"^adapters/x: not a whole safetensors file .*; train it again$"):
        decode(b"nonsense", key="adapters/x", remedy="train it again")
