"""The disk: the Hub's cache and hive's own folders, read, checked, repaired and cleared. No Redis, no HTTP."""
