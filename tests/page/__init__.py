"""The page's files, and the list without scripts."""
