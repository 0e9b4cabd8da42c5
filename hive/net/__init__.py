"""Getting out of the process: which addresses may be reached, and how URLs, proxies and servers' wishes are read."""
