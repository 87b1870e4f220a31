"""Bytes to arrays: open, decode, cut and preview local media; knows no model.

Entry points: `probe.probe` says what a file holds, `segments.decode_segment` reads a stretch of it.
"""
