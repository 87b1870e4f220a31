"""How good a model is: by group of modalities, beside chance and what is possible at all."""
