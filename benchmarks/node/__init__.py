"""The nodes, measured from outside their process."""
