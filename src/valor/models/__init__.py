"""The VALOR model: fusion of modalities, the conditional decoder and generation."""
