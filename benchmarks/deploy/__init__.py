"""What deployments cost requests: rollouts and crashes under load, the gateway, the planner."""
