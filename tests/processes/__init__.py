"""Tests of hive.processes."""
