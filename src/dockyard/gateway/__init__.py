"""The gateway: Envoy, its configuration as pure values, and the process. Only the yard calls it."""
