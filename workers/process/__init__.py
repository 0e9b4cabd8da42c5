"""The RQ side of a worker: the process, the job that it may run, and how it stops."""
