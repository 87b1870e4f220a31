"""From recordings and texts to batches."""
