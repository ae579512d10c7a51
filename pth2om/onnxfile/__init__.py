"""ONNX files: reading, writing, walking, types of their tensors, and the one place that runs them."""
