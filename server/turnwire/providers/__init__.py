"""Adapters that speak to language models."""
