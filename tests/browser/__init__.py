"""A real EventSource in a real browser, behind a real load balancer."""
