"""Readers of published dataset formats, without copying or converting files. One module per format."""
