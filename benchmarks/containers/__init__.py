"""How long containers take to start, what a load moves, and what they hold in memory."""
