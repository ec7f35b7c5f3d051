"""Exports the network as an ONNX graph of fixed shape and precision; keeps and validates files built from it."""
