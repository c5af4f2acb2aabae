"""What commands measure on a running suite, as any client would: speed and acceptance on prompts of one's own. Knows no torch."""
