"""Sovrun: a deterministic, sovereign DAG job orchestrator."""

__version__ = "0.1.0"
