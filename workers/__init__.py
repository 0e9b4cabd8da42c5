"""The RQ side of hive: fetches files and says how far they are. No HTTP routes."""
