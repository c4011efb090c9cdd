"""What deployments cost: on the way to a replica, during a rollout, and to look at."""
