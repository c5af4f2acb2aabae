"""Real services, real clients, and a seed that says what goes wrong: ``python -m benchmarks.chaos``."""
