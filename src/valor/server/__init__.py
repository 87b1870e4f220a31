"""The page and the HTTP interface over one library. Entry point: `app.create_app`."""
