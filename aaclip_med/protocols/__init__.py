"""Protocols: which sets are trained on, which are tested on, how often, and the table that comes of it."""
