"""LLM workers: one process for each model in memory, which loads it, says how far it is, and answers."""
