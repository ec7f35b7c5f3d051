"""Images and videos as files and bytes."""
