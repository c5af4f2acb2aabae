"""A suite under load, alone or beside another server: ``python -m benchmarks.load``."""
