"""Processes of one machine: children that end with their parent, the private Valkey, and all of hive together."""
