"""NVIDIA's own client, beside the server in one process.

Its messages have the names of ours, and a process knows each name once; so its code gets names of its own.
"""

from unittest.mock import patch

from google.protobuf import descriptor_pool

_POOL = descriptor_pool.DescriptorPool()
with patch.object(descriptor_pool, "Default", lambda: _POOL):
    import tritonclient.grpc as tritonclient
    from tritonclient.grpc import model_config_pb2, service_pb2, service_pb2_grpc

__all__ = ["model_config_pb2", "service_pb2", "service_pb2_grpc", "tritonclient"]
