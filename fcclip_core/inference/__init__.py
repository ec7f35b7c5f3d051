"""Steps around the network: preprocessing, classification, mask ownership, postprocessing."""
