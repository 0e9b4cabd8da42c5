"""The web page: its files, and the list for browsers without scripts."""
