"""What starts containers: one small interface, two engines behind it, `docker` and `runc`.

`base` is the interface and its nouns, `sockets` gives a container the sockets that it serves on, `launch` and `once`
are what the command line does with any engine, `detect` chooses one. Everything here starts containers hardened.
"""
