"""Tests of workers.fleet."""
