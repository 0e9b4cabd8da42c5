"""Tests of hive.streams."""
