"""The gRPC server: servicer -> batcher -> engine -> combine; its metrics and its clients."""
