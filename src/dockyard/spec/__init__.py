"""Frozen nouns that a user writes down: the project, the resources of a container, names and places.

`load` is the only module here that reads files. Everything above this layer imports from here, nothing here from above.
"""
