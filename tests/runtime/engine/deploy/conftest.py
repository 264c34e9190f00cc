"""The published fields of Triton's `ModelConfig`, by which a config.pbtxt is read in tests.

From protobuf/model_config.proto of triton-inference-server/common: names, numbers and types of the
messages that `runtime deploy` writes. A field that is not there is refused by the reader.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, text_format

_TYPES = [
    "TYPE_INVALID", "TYPE_BOOL", "TYPE_UINT8", "TYPE_UINT16", "TYPE_UINT32", "TYPE_UINT64",
    "TYPE_INT8", "TYPE_INT16", "TYPE_INT32", "TYPE_INT64", "TYPE_FP16", "TYPE_FP32", "TYPE_FP64",
    "TYPE_STRING", "TYPE_BF16",
]  # fmt: skip
# name: (number, type, repeated); a type with a capital letter is another message.
MESSAGES: dict[str, dict[str, tuple[int, str, bool]]] = {
    "ModelTensorReshape": {"shape": (1, "int64", True)},
    "ModelInput": {
        "name": (1, "string", False), "data_type": (2, "DataType", False),
        "dims": (4, "int64", True), "reshape": (5, "ModelTensorReshape", False),
        "is_shape_tensor": (6, "bool", False), "allow_ragged_batch": (7, "bool", False),
        "optional": (8, "bool", False), "is_non_linear_format_io": (9, "bool", False),
    },
    "ModelOutput": {
        "name": (1, "string", False), "data_type": (2, "DataType", False),
        "dims": (3, "int64", True), "label_filename": (4, "string", False),
        "reshape": (5, "ModelTensorReshape", False), "is_shape_tensor": (6, "bool", False),
        "is_non_linear_format_io": (7, "bool", False),
    },
    "ModelDynamicBatching": {
        "preferred_batch_size": (1, "int32", True),
        "max_queue_delay_microseconds": (2, "uint64", False),
        "preserve_ordering": (3, "bool", False),
    },
    "WarmupInput": {
        "data_type": (1, "DataType", False), "dims": (2, "int64", True),
        "zero_data": (3, "bool", False), "random_data": (4, "bool", False),
        "input_data_file": (5, "string", False),
    },
    "WarmupEntry": {"key": (1, "string", False), "value": (2, "WarmupInput", False)},
    "ModelWarmup": {
        "name": (1, "string", False), "batch_size": (2, "uint32", False),
        "inputs": (3, "WarmupEntry", True), "count": (4, "uint32", False),
    },
    "ModelParameter": {"string_value": (1, "string", False)},
    "ParameterEntry": {"key": (1, "string", False), "value": (2, "ModelParameter", False)},
    "ModelConfig": {
        "name": (1, "string", False), "platform": (2, "string", False),
        "max_batch_size": (4, "int32", False), "input": (5, "ModelInput", True),
        "output": (6, "ModelOutput", True), "default_model_filename": (8, "string", False),
        "dynamic_batching": (11, "ModelDynamicBatching", False),
        "parameters": (14, "ParameterEntry", True), "model_warmup": (16, "ModelWarmup", True),
        "backend": (17, "string", False), "runtime": (25, "string", False),
    },
}  # fmt: skip


def _model_config() -> Any:
    """An empty `ModelConfig`."""
    field_type = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(
        name="model_config_of_tests.proto", package="inference", syntax="proto3"
    )
    enum = file.enum_type.add(name="DataType")
    for number, name in enumerate(_TYPES):
        enum.value.add(name=name, number=number)
    for message, fields in MESSAGES.items():
        made = file.message_type.add(name=message)
        for name, (number, kind, repeated) in fields.items():
            field = made.field.add(
                name=name, number=number,
                label=field_type.LABEL_REPEATED if repeated else field_type.LABEL_OPTIONAL,
            )  # fmt: skip
            if kind[0].isupper():
                field.type = field_type.TYPE_ENUM if kind == "DataType" else field_type.TYPE_MESSAGE
                field.type_name = f".inference.{kind}"
            else:
                field.type = getattr(field_type, f"TYPE_{kind.upper()}")
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("inference.ModelConfig"))()


@pytest.fixture
def parsed() -> Callable[[str], Any]:
    """`parsed(text)`: a config.pbtxt as a message; a field that there is not raises."""
    return lambda text: text_format.Parse(text, _model_config())
