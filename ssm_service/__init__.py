"""The SSM service: the pool of small speculative models. It drafts, and never decides what is accepted."""
