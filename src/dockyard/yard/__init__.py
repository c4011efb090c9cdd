"""The yard: keeps deployments running on one host. Observe, plan, act, again and again; see ARCHITECTURE.md."""
