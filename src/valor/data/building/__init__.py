"""Building a set of audible video: segments, captions, and the people who correct them."""
