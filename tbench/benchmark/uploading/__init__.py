"""Uploading: an experiment's folder goes to a store that fsspec knows, and is compared there."""
