"""Models in memory: which LLM workers there are, what a machine can run, and how requests get to them."""
