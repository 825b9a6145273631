"""Synthetic scenes: pictures, captions, questions and masks."""
