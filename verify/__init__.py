"""Identities, signed statements, round records and their agreement: what anyone can check offline."""
