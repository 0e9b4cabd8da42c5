"""Redis: clients with bounds on everything, where the primary is, what it may do, and what to say when it cannot."""
