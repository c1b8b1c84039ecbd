"""Asyncio around the core; knows ports, never adapters."""
