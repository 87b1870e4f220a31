"""Arrays to model inputs, the same in training and in serving."""
