"""Custom operators on the host: bodies as torch operators, and as functions of standard operators in ONNX files."""
