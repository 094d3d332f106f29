"""Vectors of weights as bytes: layout, digest, codecs, bounds."""
