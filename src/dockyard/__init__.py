"""Dockyard: from a trained model to one OCI image, and from there to a running, governed service.

This package stays outside the image: it builds, runs, rolls out and governs. What serves inside is `berth`.
"""

__version__ = "0.1.0"
