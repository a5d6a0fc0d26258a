"""Room 3: what the vault hands out, unwrapped."""
