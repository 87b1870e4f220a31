"""What is learned: named loss terms from encoder outputs, a batch and the decoder."""
