"""Who asks, and what they may: API keys, their scopes, and tickets for those who cannot send a key."""
