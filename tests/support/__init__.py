"""What tests share: helpers, stand-ins and clients. Imported by tests; tests import nothing of each other."""
