"""The contract of ports.SessionLog, held to real stores."""
