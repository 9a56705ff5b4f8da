"""Use of trained networks: prediction, ONNX export, model card."""
