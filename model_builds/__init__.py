"""Building models as ONNX without a hub: decoders and encoders from the weights in Python packages, or from a seed."""
