"""What ``specgrove doctor`` looks at: this machine, the models and addresses that a suite would be started with, or a running suite.

Each module makes ``Finding``s, and raises nothing for what it finds wrong. Nothing is fetched, converted or left behind.
"""
