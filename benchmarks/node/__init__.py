"""The nodes, measured from outside."""
