"""The page and the HTTP interface over one library. Entry points: `app.create_app` and `run`."""
