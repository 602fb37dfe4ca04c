"""Configuration, logging, paths and files. Imports nothing of ours."""
