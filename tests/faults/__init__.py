"""Everything that can die, killed while many talk, and an oracle that trusts nobody."""
