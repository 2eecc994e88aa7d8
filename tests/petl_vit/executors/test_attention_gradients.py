"""Attention in training where its gradient is PyTorch's, as on a GPU."""

import pytest
import torch
import torch.nn.functional as F
from torch.profiler import ProfilerActivity, profile

from petl_vit.attention import merge_heads, split_heads
from petl_vit.executors import attention_gradients
from petl_vit.executors.attention_gradients import self_attention

HEADS = 4


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_the_gradient_of_queries_keys_and_values_is_autograds_in_one_pass(
    dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attention_gradients, "_by_hand", lambda x: False)
    qkv = torch.randn(3, 7, 3 * 24, dtype=dtype, requires_grad=True)
    expected = merge_heads(F.scaled_dot_product_attention(*split_heads(qkv, HEADS)))
    of_out = torch.randn_like(expected)
    (of_qkv,) = torch.autograd.grad(expected, qkv, of_out)

    found = self_attention(qkv, HEADS)
    with profile(activities=[ProfilerActivity.CPU]) as profiled:
        (of_ours,) = torch.autograd.grad(found, qkv, of_out)

    assert torch.equal(found, expected)
    assert torch.equal(of_ours, of_qkv)
    ran = {event.key: event.count for event in profiled.key_averages()}
    assert ran["aten::stack"] == 1
    assert "aten::clone" not in ran
