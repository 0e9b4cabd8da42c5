"""The HTTP side: routes that read a request, ask one of hive's services, and write the answer."""
