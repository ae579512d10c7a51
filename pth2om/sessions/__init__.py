"""What runs a model: PyTorch and ONNX Runtime behind the one protocol of `pth2om.session`."""
