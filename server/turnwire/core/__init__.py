"""Pure rules: no asyncio, clock, randomness or I/O. Time and ids come in as arguments."""
