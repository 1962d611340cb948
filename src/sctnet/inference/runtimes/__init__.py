"""Where a network is computed: PyTorch, compiled loops, ONNX Runtime or OpenVINO."""
