"""A download's life in Redis: its record, who holds it, what is next, and what becomes of it when somebody dies."""
