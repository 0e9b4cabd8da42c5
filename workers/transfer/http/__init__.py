"""Bytes over ranged HTTP."""
