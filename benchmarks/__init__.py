"""Measurements and full-size demonstrations. Each module is a command; ``make bench`` runs ``benchmarks.serving``."""
