"""Evidence about a Python environment: what is installed, whether it is intact, under which licences.

Every part is a function of the environment's files alone: the same tree gives the same bytes. `steps` is what the DAG
calls and the only module that knows Sovrun; the others take paths and values and return values.
"""
