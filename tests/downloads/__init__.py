"""Tests of hive.downloads."""
