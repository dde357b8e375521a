"""Running and looking at servers: a deployment on one's own machine, the state of any deployment."""
