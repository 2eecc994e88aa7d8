"""gRPC: protobuf to requests, answers and errors to protobuf."""
