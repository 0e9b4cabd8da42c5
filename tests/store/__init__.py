"""Tests of hive.store."""
