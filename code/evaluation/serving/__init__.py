"""Engines that serve: asking them questions as a run does, and a small server of our own."""
