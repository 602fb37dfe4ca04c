"""Where agents get their answers from: an endpoint, a model in this process, or a script."""
