"""Messages from arrays and results, and arrays from messages."""
