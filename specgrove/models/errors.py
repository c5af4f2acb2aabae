"""What loading a model may raise."""


class UnsupportedModelError(ValueError):
    """A checkpoint asks for something the decoder doesn't do; the text names it."""
