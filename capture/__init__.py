"""Capture: what applications really send, recorded as traces."""
