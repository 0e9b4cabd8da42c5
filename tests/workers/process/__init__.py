"""Tests of workers.process."""
