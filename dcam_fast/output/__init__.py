"""Explanations as pictures, pages and folders."""
