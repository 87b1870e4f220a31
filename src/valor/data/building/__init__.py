"""Building a set from raw recordings: cut them, caption them, let people correct the captions."""
