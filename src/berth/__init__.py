"""What model authors import and what serves inside the image."""
