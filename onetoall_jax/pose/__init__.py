"""Whole-body key points: where they come from, their layouts, and their drawing."""
