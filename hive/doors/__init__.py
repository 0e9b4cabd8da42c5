"""Doors: bytes of the store over HTTP, and other systems' APIs over the same downloads and the same store."""
