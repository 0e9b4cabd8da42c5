"""Tests of hive.net."""
