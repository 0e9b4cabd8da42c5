"""Figures: of one HTTP process, of the whole fleet, and as Prometheus reads them."""
