"""The network as a file: an ONNX graph of fixed shape and precision, and what is built from it and checked."""
