"""Trained networks put to use: prediction, ONNX export, model card."""
