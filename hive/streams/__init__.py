"""From a Redis channel to ten thousand clients: one subscription, a topic per download, one writer per connection."""
