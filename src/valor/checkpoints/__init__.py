"""Model folders and the weights of others."""
