"""Tests of workers.local."""
