"""Which device does what: devices as data, what a plan costs, the best plan, and the file it is kept in."""
