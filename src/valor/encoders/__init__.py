"""Encoders of one modality each, and the layers that they share."""
