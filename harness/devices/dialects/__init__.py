"""How to speak with each kind of agent, one file per kind."""
