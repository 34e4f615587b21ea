"""Tests; packages, so that helpers can be shared and file names repeated."""
