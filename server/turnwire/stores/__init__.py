"""Adapters that keep the log."""
