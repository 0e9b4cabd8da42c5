"""Tests of the command line: real processes and a real HTTP server on loopback."""
