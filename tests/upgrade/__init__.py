"""A Redis and a store that an earlier release left behind go on under this one."""
