"""Tests of hive.wire."""
