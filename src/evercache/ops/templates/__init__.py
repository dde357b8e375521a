"""The texts of configuration files, for `evercache up` and `evercache render` alike."""
