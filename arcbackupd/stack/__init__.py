"""The installation that is looked after: the engine that runs its containers, and its services."""
