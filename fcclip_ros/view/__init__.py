"""`fcclip view`: topics and bags in the Rerun viewer."""
