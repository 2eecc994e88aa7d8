"""Our messages beside NVIDIA's: every message, field and method is one of theirs."""

from collections.abc import Iterator
from typing import Any

import pytest
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message

from protos.inference import grpc_service_pb2 as ours
from serving.oip.servicer import SERVICE
from tests.serving.triton_client import model_config_pb2, service_pb2


def messages(descriptor: Any) -> Iterator[Descriptor]:
    for message in descriptor.values():
        if not message.GetOptions().map_entry:
            yield message
        yield from messages(message.nested_types_by_name)


OURS = {m.full_name: m for m in messages(ours.DESCRIPTOR.message_types_by_name)}
THEIRS = {
    m.full_name: m
    for module in (service_pb2, model_config_pb2)
    for m in messages(module.DESCRIPTOR.message_types_by_name)
}


def filled(kind: type[Message]) -> Message:
    """A message with something in every field."""
    message: Any = kind()
    for field in kind.DESCRIPTOR.fields:
        target = getattr(message, field.name)
        if field.message_type is not None and field.message_type.GetOptions().map_entry:
            target["key"].MergeFrom(filled(type(target["key"])))
        elif field.message_type is not None:
            inner = target.add() if field.is_repeated else target
            inner.MergeFrom(filled(type(inner)))
        elif field.is_repeated:
            target.append(value_of(field))
        else:
            setattr(message, field.name, value_of(field))
    return message


def value_of(field: FieldDescriptor) -> Any:
    values = {
        FieldDescriptor.CPPTYPE_STRING: b"x" if field.type == FieldDescriptor.TYPE_BYTES else "x",
        FieldDescriptor.CPPTYPE_BOOL: True,
        FieldDescriptor.CPPTYPE_FLOAT: 1.5,
        FieldDescriptor.CPPTYPE_DOUBLE: 1.5,
    }
    return values.get(field.cpp_type, 7)


def class_of(name: str, modules: tuple[Any, ...]) -> type[Message]:
    first, *rest = name.removeprefix("inference.").split(".")
    kind = next(getattr(module, first) for module in modules if hasattr(module, first))
    for part in rest:
        kind = getattr(kind, part)
    return kind  # type: ignore[no-any-return]


@pytest.mark.parametrize("name", OURS)
def test_every_message_is_one_of_tritons(name: str) -> None:
    mine = filled(class_of(name, (ours,)))
    theirs = class_of(name, (service_pb2, model_config_pb2)).FromString(mine.SerializeToString())

    assert str(theirs) == str(mine), "by name and value"
    assert type(mine).FromString(theirs.SerializeToString()) == mine


@pytest.mark.parametrize("name", OURS)
def test_every_field_has_the_name_number_and_type_of_tritons(name: str) -> None:
    theirs = {field.name: field for field in THEIRS[name].fields}
    for field in OURS[name].fields:
        other = theirs[field.name]
        assert (field.number, field.type, field.is_repeated) == (other.number, other.type, other.is_repeated)


def test_every_method_is_one_of_tritons() -> None:
    theirs = service_pb2.DESCRIPTOR.services_by_name["GRPCInferenceService"].methods_by_name
    service = ours.DESCRIPTOR.services_by_name["GRPCInferenceService"]

    assert service.full_name == SERVICE == "inference.GRPCInferenceService"
    for method in service.methods:
        other = theirs[method.name]
        assert method.input_type.full_name == other.input_type.full_name
        assert method.output_type.full_name == other.output_type.full_name
        assert method.client_streaming == other.client_streaming
