"""REST: parse, call the engine, render. The same application on a Unix socket now and on TCP later."""
