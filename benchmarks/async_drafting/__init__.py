"""Asynchronous drafting against synchronous: see ``__main__``."""
