"""The Open Inference Protocol on the same service."""
