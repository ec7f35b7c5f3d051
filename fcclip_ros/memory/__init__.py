"""The parts of the node `object_memory`."""
