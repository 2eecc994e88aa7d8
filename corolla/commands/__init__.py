"""The subcommands, one file for each command or group; imported when they run."""
