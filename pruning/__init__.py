"""Deciding what to prune, and verifying what was: gates, criteria, and the check of a compact network."""
