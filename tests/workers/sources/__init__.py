"""Tests of workers.sources."""
