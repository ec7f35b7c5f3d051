"""Readers of published dataset formats; nothing is copied or converted. One file a format."""
