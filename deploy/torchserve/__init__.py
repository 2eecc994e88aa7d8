"""What `corolla package torchserve` fills in; the handler is imported by TorchServe alone."""
