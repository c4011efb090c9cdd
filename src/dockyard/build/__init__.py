"""From a project to an image: lock, base, dependencies, weights, code, preflight, assembly. Nothing of the user's runs.

`builder.build` is the way in; it reads like the recipe. Called by `cli.build`.
"""
