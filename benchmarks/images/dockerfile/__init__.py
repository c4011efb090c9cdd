"""The way that most models go into images today: a Dockerfile, a requirements file and a small server by hand."""
