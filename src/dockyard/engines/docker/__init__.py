"""The `docker` engine: containers through the API of a Docker or Podman engine on this machine.

The only package that knows aiodocker. `engine` implements the interface; `session` holds the connection and translates
errors, `transfer` moves images, `streams` attaches, `config` says what is asked for and reads what is answered.
"""
