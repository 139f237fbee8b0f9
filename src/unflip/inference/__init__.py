"""Translating: images in, images out."""
