"""The progress stream under everything that may happen to it."""
