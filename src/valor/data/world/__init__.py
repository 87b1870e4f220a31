"""The rendered audible world: real mp4 files whose truth is known exactly.

`scene` draws what happens, `drawing` and `sound` show and sound it, `language` speaks about it,
`render` writes files. Nothing here knows a model.
"""
