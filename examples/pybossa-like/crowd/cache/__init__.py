"""The cache module of the site. One line decides which it is: exchange it, and all have the other."""

from evercache.integrations.pybossa import *  # noqa: F403

# from crowd.module2013 import *
