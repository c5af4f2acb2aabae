"""What the GPU services reach on a card, as ratios to what the same card does in the same run. ``python -m benchmarks.gpu`` runs it."""
