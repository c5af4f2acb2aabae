"""Distilling a small drafter from the LLM's own outputs: generate data, train, evaluate. Run as ``python -m``."""
