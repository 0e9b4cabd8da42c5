"""Tests of hive and its workers, and the stand-ins they run against."""
