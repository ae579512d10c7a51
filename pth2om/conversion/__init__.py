"""From a spec to sessions: checkpoint, ONNX, INT8 and OM, each a stage whose artifact the store keeps."""
