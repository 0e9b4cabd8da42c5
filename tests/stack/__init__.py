"""The compose file on a real Docker engine, with everything that may happen to it: scripts/stack-test."""
