"""What an emitter is: targets, parts, engines in child processes."""
