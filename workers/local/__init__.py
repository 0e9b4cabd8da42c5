"""Downloads in the process that wants them, without Redis, queue or server."""
