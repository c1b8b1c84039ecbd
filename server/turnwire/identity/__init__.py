"""Adapters that tell who is there."""
