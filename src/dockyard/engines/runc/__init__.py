"""The `runc` engine: containers without a daemon, for hosts that have runc and root and nothing else.

`engine` implements the interface; `layers` keeps unpacked images, `bundle` and `seccomp` say how a container is
confined, `monitor` is the small program that outlives us beside each container, `records` is what is on the disk.
"""
