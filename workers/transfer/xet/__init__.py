"""Bytes out of the Hub's chunk store, over the range streams of hf_xet."""
