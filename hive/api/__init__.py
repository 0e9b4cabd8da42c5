"""The HTTP side: routes that read a request, ask one of hive's parts, and write the answer."""
