"""The tests, tested: every guard of the scripts, and every check of replay and hub, is taken out once."""
