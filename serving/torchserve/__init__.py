"""The service inside TorchServe."""
