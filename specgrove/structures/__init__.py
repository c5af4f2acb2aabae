"""Structured output: what is asked for, and the grammar that holds a text to it."""
