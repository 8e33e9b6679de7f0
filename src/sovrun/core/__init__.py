"""The pure heart: values in, values out; no clock, randomness, file, socket, log or setting."""
