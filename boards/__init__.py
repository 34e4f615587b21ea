"""Boards: tops, constraints, host link, bitstreams."""
