"""Hand-tuned forms of single operations, for one kind of hardware each; what they compute is said where they are used."""
