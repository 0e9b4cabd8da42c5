"""What is known of a partial file: which parts are there, the journal that says so, and the digest so far."""
