"""A frame's way through the network and back: preprocessing, classification, mask ownership, postprocessing."""
