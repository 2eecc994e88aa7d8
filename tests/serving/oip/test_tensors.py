"""Tensors in and out, without a server; what is refused is tested through the servicer."""

import struct
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from petl_vit.errors import InvalidInput
from serving.metrics.label_requests import LabelRequest
from serving.oip.outputs import COLUMNS, RequestedOutput, outputs_of
from serving.oip.tensors import Input, images_of
from serving.request import ImageAnswer

CLASSES = ("círculo", "square", "star")


def described(datatype: str, *shape: int) -> Input:
    return Input(name="images", datatype=datatype, shape=shape, values={})


def answer(*probabilities: float, predicted: int) -> ImageAnswer:
    return ImageAnswer(
        probabilities=np.array(probabilities),
        predicted=predicted,
        votes=(predicted,),
        confidences=(1.0,),
        agreement=1.0,
        entropy=0.5,
        mutual_information=0.25,
        prediction_id="id",
    )


@given(st.lists(st.binary(), min_size=1, max_size=6))
def test_byte_strings_behind_their_lengths_are_what_was_sent(texts: list[bytes]) -> None:
    raw = b"".join(struct.pack("<I", len(text)) + text for text in texts)
    assert images_of([described("BYTES", len(texts))], [raw], max_images=8) == texts


@given(st.binary(), st.integers(1, 8))
def test_any_bytes_are_images_or_refused(raw: bytes, count: int) -> None:
    try:
        found = len(images_of([described("BYTES", count)], [raw], max_images=8))
    except InvalidInput:
        found = None
    assert found in (None, count)


@given(st.sampled_from(["BYTES", "UINT8", "FP32", "", "INT64"]), st.lists(st.integers(-2, 2**40), max_size=5))
def test_any_description_is_taken_or_refused_by_its_field(datatype: str, shape: list[int]) -> None:
    try:
        images_of([described(datatype, *shape)], [b"x" * 12], max_images=8)
        field: str | None = "taken"
    except InvalidInput as error:
        field = error.field
    assert field is not None


@pytest.mark.parametrize(
    ("datatype", "shape", "said"),
    [
        ("UINT8", (1, 4256), "send encoded images as BYTES"),
        ("UINT8", (4256,), "send encoded images as BYTES"),
        ("UINT8", (32, 32, 3), r"as in \[1, H, W, 3\]"),
        ("FP32", (1, 32, 32, 3), "send the channels before height and width"),
        ("UINT8", (1, 3, 32, 32), "send UINT8 in that layout"),
    ],
)
def test_a_shape_that_does_not_fit_says_what_to_send(
    datatype: str, shape: tuple[int, ...], said: str
) -> None:
    with pytest.raises(InvalidInput, match=said) as caught:
        images_of([described(datatype, *shape)], [b"x"], max_images=8)
    assert caught.value.field == "inputs[0].shape"


def test_raw_pixels_are_not_copied() -> None:
    raw = bytes(range(12))
    found = images_of([described("UINT8", 1, 2, 2, 3)], [raw], max_images=1)
    assert isinstance(found, np.ndarray)
    assert np.shares_memory(found, np.frombuffer(raw, np.uint8))


def test_the_answered_class_comes_first_whatever_its_probability() -> None:
    # A vote may answer what has not the highest mean probability.
    images = [answer(0.5, 0.2, 0.3, predicted=2), answer(0.1, 0.45, 0.45, predicted=1)]
    found = {o.name: o for o in outputs_of(images, CLASSES, [], top_k=3)}

    assert np.frombuffer(found["class_index"].raw, "<i8").tolist() == [2, 0, 1, 1, 2, 0]
    assert found["label"].shape == (2, 3)
    assert found["label"].raw.endswith(struct.pack("<I", 8) + "círculo".encode())


@pytest.mark.parametrize("top_k", [None, 1, 2, 99])
def test_every_output_has_the_bytes_of_its_shape(top_k: int | None) -> None:
    images = [answer(0.5, 0.2, 0.3, predicted=0)] * 4
    sizes = {"FP32": 4, "INT64": 8}
    outputs = list(outputs_of(images, CLASSES, [], top_k=top_k))

    assert [output.name for output in outputs] == list(COLUMNS)
    for output in outputs:
        assert output.shape[0] == 4
        if output.datatype in sizes:
            assert len(output.raw) == int(np.prod(output.shape)) * sizes[output.datatype]


def test_the_best_classes_are_texts_and_no_more_than_there_are() -> None:
    wanted: list[Any] = [RequestedOutput(name="probabilities", best=9)]
    (found,) = outputs_of([answer(0.5, 0.2, 0.3, predicted=0)], CLASSES, wanted, top_k=None)

    assert (found.datatype, found.shape) == ("BYTES", (1, 3))
    assert b"0.300000:2:star" in found.raw


def test_a_wish_for_a_label_is_its_probability_and_none_is_zero() -> None:
    plain = answer(0.5, 0.2, 0.3, predicted=0)
    wished = replace(plain, label_request=LabelRequest(reason="sampled", probability=0.25))
    wanted: list[Any] = [RequestedOutput(name="label_request")]
    (found,) = outputs_of([plain, wished], CLASSES, wanted, top_k=None)

    assert np.frombuffer(found.raw, "<f4").tolist() == [0, 0.25]
