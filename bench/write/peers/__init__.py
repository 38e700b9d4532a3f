"""The peers, each set up by a file of its own that is run with the Python of .venv/bench: never imported."""
