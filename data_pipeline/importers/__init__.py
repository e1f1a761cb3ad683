"""Layouts of footage: each module lists what a folder of one layout holds."""
