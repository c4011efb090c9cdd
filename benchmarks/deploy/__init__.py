"""What the yard costs and what a deployment costs its callers: planning, rollouts under load, the gateway."""
