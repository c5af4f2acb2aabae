"""Models: finding their folders, reading their weights, and the one decoder definition that runs them."""
