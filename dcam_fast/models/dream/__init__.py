"""Dimple and Dream-VL, which share Dream's decoding."""
