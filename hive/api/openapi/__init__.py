"""The reference of the HTTP API, made from the code: an OpenAPI 3.1 document, and a page for people.

Nothing of it is imported before somebody asks for it: see hive/api/reference.py.
"""
