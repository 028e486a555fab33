"""Scoring of many cases: what is written of each, tables, resumption."""
