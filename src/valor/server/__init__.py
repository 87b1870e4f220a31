"""Pages and interfaces over HTTP. Entry points: `app.create_app` over a library, `annotate`."""
