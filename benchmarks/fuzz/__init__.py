"""Malformed requests of every kind at all services: ``python -m benchmarks.fuzz``."""
