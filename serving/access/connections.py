"""What gRPC is told about connections: sizes of messages, keepalive pings, age. No torch."""

from serving.settings import Settings

_METADATA_BYTES = 8 * 2**10
_CALLS = 1024


def options(settings: Settings) -> list[tuple[str, int]]:
    """The server's channel arguments."""
    chosen = [
        ("grpc.max_receive_message_length", settings.max_message_bytes),
        ("grpc.max_send_message_length", settings.max_message_bytes),
        # Above the first, more and more calls are refused at random; above the second, all.
        ("grpc.max_metadata_size", _METADATA_BYTES),
        ("grpc.absolute_max_metadata_size", 2 * _METADATA_BYTES),
        # Of one connection; further calls wait in its client.
        ("grpc.max_concurrent_streams", _CALLS),
        ("grpc.so_reuseport", 0),
        # A client that pings faster, three times without data between, is cut off: "Too many pings".
        ("grpc.http2.min_ping_interval_without_data_ms", _milliseconds(settings.min_ping_interval_s)),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.keepalive_time_ms", _milliseconds(settings.keepalive_s)),
        ("grpc.keepalive_timeout_ms", _milliseconds(settings.keepalive_timeout_s)),
        ("grpc.http2.max_pings_without_data", 0),
    ]
    if settings.max_connection_age_s is not None:
        chosen += [
            ("grpc.max_connection_age_ms", _milliseconds(settings.max_connection_age_s)),
            ("grpc.max_connection_age_grace_ms", _milliseconds(settings.max_connection_age_grace_s)),
        ]
    return chosen


def _milliseconds(seconds: float) -> int:
    return round(1000 * seconds)
