"""One file per model family: ``config.json`` to ``DecoderSpec``, and checkpoint names to the decoder's parameters. Imports no torch."""
