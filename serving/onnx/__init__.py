"""The same forward recorded for ONNX Runtime."""
