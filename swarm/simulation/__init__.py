"""A run over thousands of devices, simulated: how fast it is, what it costs, and what it loses."""
