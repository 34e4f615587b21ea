"""Formal proofs of what streams and controllers promise."""
