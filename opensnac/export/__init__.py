"""The codec in ONNX: graphs written node by node from a model's weights. Needs onnx, not PyTorch."""
