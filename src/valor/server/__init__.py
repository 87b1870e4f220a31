"""Local pages over HTTP."""
