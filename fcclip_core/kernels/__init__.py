"""Hand-tuned forms of single operations, for one kind of hardware each; where they are used says what they compute."""
