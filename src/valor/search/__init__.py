"""One folder to search audible video in: `library.Library` is the way in.

`tables` owns what is on disk, `ingest` fills it from files, `query` ranks it.
"""
