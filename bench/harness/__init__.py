"""Compares Posthaste with the systems it replaces; see ../README.md."""
