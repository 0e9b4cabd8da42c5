"""Tests of hive.metrics."""
