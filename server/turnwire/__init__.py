"""Turnwire: the WebSocket backend between chat UIs and language models."""
