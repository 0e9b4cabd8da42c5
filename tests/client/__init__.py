"""Tests of hive.client."""
