"""OCI image nouns and their transport: digests, images, layers, layouts, archives, unpacking, registries.

It exists because every other part speaks of images, and only this one knows how their bytes look. The builder writes
layers and images here, the engines load and unpack them, the command line lists, copies, pulls and pushes them.
Formats: OCI image specification 1.1, OCI distribution specification 1.1, Docker image specification 1.2.
"""
