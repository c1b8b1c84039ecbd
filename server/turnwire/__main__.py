"""`python -m turnwire` is `turnwire`."""

from turnwire.cli import app

app()
