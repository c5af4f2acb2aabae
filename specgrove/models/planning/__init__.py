"""Whether a model fits: memory and disk, before anything is loaded."""
