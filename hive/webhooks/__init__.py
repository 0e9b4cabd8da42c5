"""Webhooks: what is due, who sends it, how it is signed, and the one POST that carries it."""
