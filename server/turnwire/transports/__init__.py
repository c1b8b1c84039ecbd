"""Translations of the backend: WebSocket, HTTP."""
