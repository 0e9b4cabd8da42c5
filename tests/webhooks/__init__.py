"""Webhooks: signed, sent at least once, to addresses that were checked."""
